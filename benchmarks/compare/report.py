"""The results of `capeserve bench compare`: a table with ratios, JSON, and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.compare.measurement import REFERENCE, Result
from benchmarks.harness.tables import NONE, ReportTable, milliseconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUPPORT = {"computed": "with every request", "kept": "kept"}

HEADER = (
    "served by", "support", "precision", "p50, ms", "p95", "× eager", "answers/s", "callers", "× LitServe", "failed",
    "largest difference", "mean",
)  # fmt: skip


def reference_latency(results: Sequence[Result]) -> float | None:
    """Median latency of PyTorch eager in seconds; None if it did not run."""
    return next((one.latency.p50 for one in results if one.name == REFERENCE and one.seconds), None)


def litserve_rate(results: Sequence[Result]) -> float | None:
    """Answers per second of LitServe computing the support with every request, as research code does."""
    return next(
        (one.rate for one in results if one.name.startswith("LitServe") and one.support == "computed" and one.rate),
        None,
    )


def tables(results: Sequence[Result], absent: Mapping[str, str]) -> tuple[ReportTable, ...]:
    """All candidates, and those that could not run."""
    eager, litserve = reference_latency(results), litserve_rate(results)
    rows = tuple(
        (
            one.name,
            SUPPORT[one.support],
            one.precision,
            milliseconds(one.latency.p50 if one.seconds else None),
            milliseconds(one.latency.p95 if one.seconds else None),
            f"{eager / one.latency.p50:.2f}" if eager and one.seconds else NONE,
            f"{one.rate:.2f}" if one.rates else NONE,
            str(one.callers),
            f"{one.rate / litserve:.2f}" if litserve and one.rates else NONE,
            ", ".join(f"{count} {error}" for error, count in one.failures.items()) or "0",
            NONE if one.largest is None else f"{one.largest:.1e}",
            NONE if one.mean is None else f"{one.mean:.1e}",
        )
        for one in results
    )
    table = ReportTable(
        "The same weights, images and supports",
        HEADER,
        rows,
        (
            "Support with every request: each request brings texts that nobody has seen, and its support photograph is "
            "encoded again, as research code does. Kept: the support was encoded before; what caches are for.",
            "PyTorch runs in the caller's own process, without a network; all others are called over it. × eager: "
            "the median latency of PyTorch eager ÷ this one. × LitServe: answers/s ÷ those of LitServe that computes "
            "the support with every request.",
            "LitServe's processes poll when idle, and are stopped while others have their turn.",
            "Answers/s: as many callers as given, each asking again when answered; the median of the turns.",
            "Differences: of keypoints from PyTorch eager's, as shares of the query's box.",
        ),
    )
    if not absent:
        return (table,)
    return table, ReportTable("Candidates that could not run", ("served by", "why"), tuple(absent.items()))


def document(results: Sequence[Result], absent: Mapping[str, str], described: Mapping[str, str]) -> dict[str, Any]:
    """Everything as JSON; times in seconds."""
    eager, litserve = reference_latency(results), litserve_rate(results)
    return {
        "model": dict(described),
        "absent": dict(absent),
        "candidates": [
            asdict(one)
            | {
                "latency": asdict(one.latency),
                "rate": one.rate,
                "eager_ratio": eager / one.latency.p50 if eager and one.seconds else None,
                "litserve_ratio": one.rate / litserve if litserve and one.rates else None,
            }
            for one in results
        ],
    }


def draw(results: Sequence[Result], figure: Figure) -> None:
    """Latency and throughput as bars, the longest at the top."""
    labels = [f"{one.name}, support {SUPPORT[one.support]}, {one.precision}" for one in results][::-1]
    for place, (title, values) in enumerate(
        (
            ("median latency, ms", [1000 * one.latency.p50 for one in results]),
            ("answers per second", [one.rate for one in results]),
        ),
        start=1,
    ):
        axes = figure.add_subplot(1, 2, place)
        bars = axes.barh(range(len(results)), values[::-1])
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
        axes.set_yticks(range(len(results)), labels if place == 1 else [""] * len(results), fontsize=6)
        axes.set_title(title, fontsize="small")
        axes.margins(x=0.15)
