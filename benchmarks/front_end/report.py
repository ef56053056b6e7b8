"""The results of `capeserve bench front-end`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.front_end.measurement import CALLERS, FrontEnd
from benchmarks.harness.tables import ReportTable, milliseconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


HEADER = (
    "input",
    "processes",
    "request, KiB",
    "answers/s",
    "CPU, ms per answer",
    "answers/s of a core",
    "p50, ms",
    "p99",
)


def tables(results: Sequence[FrontEnd]) -> tuple[ReportTable, ...]:
    """One table."""
    return (
        ReportTable(
            f"{CALLERS} callers, an engine that answers at once",
            HEADER,
            tuple(
                (
                    one.input,
                    str(one.processes),
                    f"{one.request_bytes / 1024:.0f}",
                    f"{one.rate:.0f}",
                    milliseconds(one.cpu),
                    f"{one.rate_per_core:.0f}",
                    milliseconds(one.latency.p50),
                    milliseconds(one.latency.p99),
                )
                for one in results
            ),
            (
                "JPEG: a photograph that the server decodes and crops. Raw crop: the pixels that the model takes, so "
                "that nothing is decoded.",
                "The callers run on the same processors: answers/s is what was left for the servers; CPU per answer, "
                "and from it the answers of a core that a server has for itself, do not depend on that.",
            ),
        ),
    )


def document(results: Sequence[FrontEnd]) -> dict[str, Any]:
    """Everything as JSON; times in seconds."""
    return {"runs": [asdict(one) | {"rate_per_core": one.rate_per_core} for one in results]}


def draw(results: Sequence[FrontEnd], figure: Figure) -> None:
    """CPU time of an answer, and answers per second."""
    labels = [f"{one.input},\n{one.processes} processes" for one in results]
    for place, (title, values) in enumerate(
        (
            ("CPU of the servers, ms per answer", [1000 * one.cpu for one in results]),
            ("answers per second", [one.rate for one in results]),
        ),
        start=1,
    ):
        axes = figure.add_subplot(1, 2, place)
        axes.bar_label(axes.bar(labels, values), fmt="%.2f", fontsize=8)
        axes.set_title(title, fontsize="small")
        axes.tick_params(axis="x", labelsize=7)
