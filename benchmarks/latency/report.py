"""The results of `capeserve bench latency`: Table 5 with our columns, JSON, and bars beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.harness.table5 import TABLE_5
from benchmarks.harness.tables import NONE, ReportTable, milliseconds
from benchmarks.latency.measurement import Latency, SystemLatency
from service.telemetry.performance import PAPER

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = ("system", "support", "p50", "p95", "p99", "FPS", "paper", "× paper", "engine alone", "service", "× 10⁹ MACs")


def tables(rows: Sequence[SystemLatency]) -> tuple[ReportTable, ...]:
    """Latency beside the paper's, and a table of the systems."""
    lines = []
    for row in rows:
        for kind, measured in (("cold", row.cold), ("warm", row.warm)):
            lines.append(_line(row, kind, measured))
    latency = ReportTable(
        "Latency, milliseconds",
        HEADER,
        tuple(lines),
        (
            "p50, p95, p99, FPS: over gRPC, as the caller sees them, one request at a time. Paper: Table 5, an RTX "
            "3060, every query with its support, without a network. × paper: its time ÷ ours, above 1 is faster.",
            "Cold: the support is new, its image and texts are encoded. Warm: the support was encoded before.",
            "Engine alone: p50 of the same runs without a service around them. Service: what a caller waits beyond "
            "that, the median over pairs of neighbouring run and call. Cold requests carry the support's photograph.",
            "MACs: multiply-adds of such a request, where the system has the published size; a number that the paper "
            "calls FLOPs counts only what its counter sees (`capeserve bench cost`).",
        ),
    )
    systems = ReportTable(
        "What was measured",
        ("system", "repository", "engine", "precision", "backbone", "parameters, M", "Table 5: M", "Table 5: FLOPs, G"),
        tuple(
            (
                row.system,
                row.repository,
                row.engine,
                row.precision,
                row.backbone,
                f"{row.parameters / 1e6:.3f}",
                f"{TABLE_5[row.system].parameters:.3f}" if row.system in TABLE_5 else NONE,
                f"{TABLE_5[row.system].multiply_adds:.3f}" if row.system in TABLE_5 else NONE,
            )
            for row in rows
        ),
    )
    return latency, systems


def _line(row: SystemLatency, kind: str, latency: Latency) -> tuple[str, ...]:
    trip, paper = latency.round_trip, row.paper
    macs = NONE
    if row.cost is not None:
        macs = f"{(row.cost.uncached if kind == 'cold' else row.cost.per_query) / 1e9:.2f}"
    return (
        f"{row.system}, {row.repository}",
        kind,
        *(milliseconds(value) for value in (trip.p50, trip.p95, trip.p99)),
        f"{1 / trip.p50:.2f}",
        milliseconds(paper.seconds if paper else None),
        NONE if paper is None else f"{paper.seconds / trip.p50:.2f}",
        milliseconds(latency.engine.p50),
        milliseconds(latency.service_cost),
        macs,
    )


def document(rows: Sequence[SystemLatency]) -> dict[str, Any]:
    """Everything as JSON; times in seconds."""
    found = []
    for row in rows:
        entry = asdict(row) | {"cost": None}
        if row.cost is not None:
            entry["cost"] = {"uncached": row.cost.uncached, "per_query": row.cost.per_query}
        entry["paper_seconds"] = row.paper.seconds if row.paper else None
        for kind, latency in (("cold", row.cold), ("warm", row.warm)):
            entry[kind]["paper_ratio"] = row.paper.seconds / latency.round_trip.p50 if row.paper else None
        found.append(entry)
    return {"systems": found}


def draw(rows: Sequence[SystemLatency], figure: Figure) -> None:
    """Bars: the paper, cold and warm, by system."""
    axes = figure.add_subplot()
    labels = [f"{row.system}\n{row.repository}" for row in rows]
    series = {
        "paper, RTX 3060": [1000 * PAPER[row.system].seconds if row.system in PAPER else 0.0 for row in rows],
        "cold, over gRPC": [1000 * row.cold.round_trip.p50 for row in rows],
        "warm, over gRPC": [1000 * row.warm.round_trip.p50 for row in rows],
        "warm, engine alone": [1000 * row.warm.engine.p50 for row in rows],
    }
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        bars = axes.bar([x + (index - 1.5) * width for x in range(len(rows))], values, width, label=label)
        axes.bar_label(bars, [f"{value:.0f}" if value else "" for value in values], fontsize=7)
    axes.set_xticks(range(len(rows)), labels, fontsize="small")
    axes.set(ylabel="median latency, ms", title="One request at a time")
    axes.legend(fontsize="small")
