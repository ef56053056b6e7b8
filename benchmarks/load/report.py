"""The results of `capeserve bench load`: tables, JSON, and a plot of latency against throughput."""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.harness.tables import NONE, ReportTable, milliseconds
from benchmarks.load.measurement import FULL_BATCH, OVERLOAD, PATIENCE, Report, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = (
    "run",
    "supports",
    "offered/s",
    "answered/s",
    "goodput/s",
    "p50",
    "p95",
    "p99",
    "not answered",
    "rows a batch",
)


def tables(report: Report) -> tuple[ReportTable, ...]:
    """One table of all runs, and one of the derived figures."""
    return _runs(report), _summary(report)


def document(report: Report) -> dict[str, Any]:
    """Everything as JSON; times in seconds."""
    return asdict(report) | {"summary": summary(report)}


def summary(report: Report) -> dict[str, float | None]:
    """Derived figures; None if not measured yet."""
    best = max(report.raw.values(), default=None)
    full = report.full.outcome if report.full else None
    overload = report.overload.outcome if report.overload else None
    beside = [run.outcome for run in report.beside_overload] if overload else []
    return {
        "engine_alone_per_second": best,
        "capacity_per_second": full.throughput if full else None,
        "capacity_of_engine": full.throughput / best if full and best else None,
        "overload_goodput_of_capacity": (
            overload.goodput / fmean(one.throughput for one in beside) if overload and beside else None
        ),
        "overload_p99_of_full_batch_p99": (
            overload.answered.p99 / fmean(one.answered.p99 for one in beside) if overload and beside else None
        ),
    }


def draw(report: Report, figure: Figure) -> None:
    """Median and 99th percentile of latency against answers per second."""
    axes = figure.add_subplot()
    for kind, marker in (("closed", "o"), ("open", "s"), ("overload", "X")):
        runs = [run for run in report.runs if run.kind == kind and run.supports == 1]
        for percentile, style in (("p50", "-"), ("p99", ":")):
            axes.plot(
                [run.outcome.throughput for run in runs],
                [1000 * getattr(run.outcome.answered, percentile) for run in runs],
                marker=marker,
                linestyle=style,
                label=f"{kind}, {percentile}",
            )
    if report.raw:
        axes.axvline(max(report.raw.values()), color="grey", linewidth=1, label="engine by itself, best batch")
    axes.set(xlabel="answers per second", ylabel="latency, ms", title=f"{report.system}, {report.engine}")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _runs(report: Report) -> ReportTable:
    return ReportTable(
        f"{report.system}, {report.engine}: latency in milliseconds",
        HEADER,
        tuple(_row(run) for run in report.runs),
        (
            "Closed: so many callers, each asking again when answered. Open: calls come at random moments, so many a "
            "second, and their latency counts from the moment at which they were due (no coordinated omission).",
            f"Overload: {OVERLOAD:g} times the throughput of {FULL_BATCH} callers, each call with a deadline of "
            f"{PATIENCE:g} times their p99.",
            f"Goodput: answers within {PATIENCE:g} times that p99; closed loops count every answer. Percentiles are of "
            "answered calls. Rows/batch: of the image backbone.",
        ),
    )


def _row(run: Run) -> tuple[str, ...]:
    result = run.outcome
    level = f"{run.level:.0f} callers" if run.kind == "closed" else f"{run.level:.1f}/s"
    failed = ", ".join(f"{count} {status}" for status, count in result.statuses.items() if status != "OK")
    batch = next((count for name, count in run.batches.items() if name.endswith("image_backbone")), None)
    return (
        f"{run.kind}, {level}",
        str(run.supports),
        NONE if run.kind == "closed" else f"{result.offered:.1f}",
        f"{result.throughput:.1f}",
        f"{result.goodput:.1f}",
        *(milliseconds(value) for value in (result.answered.p50, result.answered.p95, result.answered.p99)),
        failed or "0",
        NONE if batch is None else f"{batch.mean:.1f}",
    )


def _summary(report: Report) -> ReportTable:
    found = summary(report)
    labels = {
        "engine_alone_per_second": "engine by itself, best batch size, queries/s",
        "capacity_per_second": f"{FULL_BATCH} callers, answers/s",
        "capacity_of_engine": f"{FULL_BATCH} callers ÷ engine by itself",
        "overload_goodput_of_capacity": f"goodput at {OVERLOAD:g} × capacity ÷ capacity",
        "overload_p99_of_full_batch_p99": f"p99 of answered calls there ÷ p99 of {FULL_BATCH} callers",
    }
    rows = tuple((label, NONE if (value := found[name]) is None else f"{value:.3f}") for name, label in labels.items())
    return ReportTable("What follows", ("figure", "value"), rows)
