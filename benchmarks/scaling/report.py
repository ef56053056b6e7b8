"""The results of `capeserve bench scaling`: a table and a plot for each quantity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.harness.tables import NONE, ReportTable, milliseconds
from benchmarks.scaling.measurement import CALLERS, STAGES, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def by_quantity(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Points by quantity, in measured order."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.quantity, []).append(point)
    return found


def tables(points: Sequence[Point]) -> tuple[ReportTable, ...]:
    """One table for each quantity."""
    found = []
    for quantity, series in by_quantity(points).items():
        if series[0].rate is not None:
            found.append(_rates(quantity, series))
        else:
            found.append(_latencies(quantity, series))
    return tuple(found)


def _latencies(quantity: str, series: Sequence[Point]) -> ReportTable:
    return ReportTable(
        f"{quantity.capitalize()}: milliseconds of a request, medians, one at a time",
        (quantity, "round trip, warm", "p95", *STAGES, "round trip, cold", "request, KiB"),
        tuple(
            (
                f"{point.value:g}",
                milliseconds(point.warm.p50 if point.warm else None),
                milliseconds(point.warm.p95 if point.warm else None),
                *(milliseconds(point.stages[stage] if point.stages else None) for stage in STAGES),
                milliseconds(point.cold.p50 if point.cold else None),
                f"{point.request_bytes / 1024:.0f}",
            )
            for point in series
        ),
        ("decode … total: the server's own timing of warm requests; total leaves out what gRPC takes.",),
    )


def _rates(quantity: str, series: Sequence[Point]) -> ReportTable:
    first = series[0].rate or 0.0
    return ReportTable(
        f"{quantity.capitalize()}: answers per second of {CALLERS} callers",
        (quantity, "answers/s", "× the first"),
        tuple(
            (
                f"{point.value:g}",
                NONE if point.rate is None else f"{point.rate:.2f}",
                f"{point.rate / first:.2f}" if first and point.rate is not None else NONE,
            )
            for point in series
        ),
        ("Processes share the processors between them, each pinned to its own; the callers have the same processors.",),
    )


def document(points: Sequence[Point]) -> dict[str, Any]:
    """Everything as JSON; times in seconds."""
    return {"points": [asdict(point) for point in points]}


def draw(points: Sequence[Point], figure: Figure) -> None:
    """A small plot for each quantity."""
    quantities = by_quantity(points)
    for place, (quantity, series) in enumerate(quantities.items(), start=1):
        axes = figure.add_subplot(2, -(-len(quantities) // 2), place)
        values = [point.value for point in series]
        if series[0].rate is not None:
            axes.bar([str(int(value)) for value in values], [point.rate or 0.0 for point in series])
            axes.set_ylabel("answers/s", fontsize="small")
        else:
            axes.plot(values, [1000 * point.warm.p50 if point.warm else 0 for point in series], "o-", label="warm")
            if series[0].cold is not None:
                axes.plot(values, [1000 * point.cold.p50 if point.cold else 0 for point in series], "s:", label="cold")
            axes.set_ylabel("round trip, ms", fontsize="small")
            axes.legend(fontsize="x-small")
        axes.set_xlabel(quantity, fontsize="small")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
