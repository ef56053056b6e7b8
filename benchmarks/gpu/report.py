"""Tables of `capeserve bench gpu`."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.measurement import BATCHES
from benchmarks.gpu.results import Results
from benchmarks.harness.tables import NONE, ReportTable

NOTES = (
    "Cold: a query with a new support image and new texts, batch 1: what the paper's Table 5 counts on an RTX 3060. "
    "Warm: the support was encoded before. × paper: the paper's time ÷ ours, above 1 is faster.",
    "Graphs: queries run as CUDA graphs on fixed buffers, features stay on the GPU. Otherwise one ONNX Runtime run a "
    "component, with tensors from and to the host.",
)


def document(results: Results) -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {"gpu": results.gpu, "time_limit_seconds": results.seconds, "results": results.rows}


def tables(results: Results) -> list[ReportTable]:
    """What has been measured so far."""
    rows = results.rows
    found = []
    if engine := rows.get("engine"):
        found.append(
            ReportTable(
                f"{results.gpu}: the engine by itself, milliseconds",
                ("precision", "graphs", "fused", "cold p50", "p95", "× paper", "warm p50", "p95", "× paper"),
                tuple(
                    tuple(
                        _text(row[key])
                        for key in (
                            "precision",
                            "graphs",
                            "fused",
                            "cold_ms",
                            "cold_p95_ms",
                            "times_paper_cold",
                            "warm_ms",
                            "warm_p95_ms",
                            "times_paper_warm",
                        )
                    )
                    for row in engine
                ),
                NOTES,
            )
        )
        found.append(
            ReportTable(
                "Images per second by batch size, warm",
                ("precision", "graphs", "fused", *map(str, BATCHES)),
                tuple(
                    (
                        row["precision"],
                        _text(row["graphs"]),
                        _text(row["fused"]),
                        *(_text(row["images_per_second"].get(batch)) for batch in BATCHES),
                    )
                    for row in engine
                ),
            )
        )
    for section, title in (
        ("engine, two in flight", "Images per second with two batches in flight"),
        ("PyTorch", "PyTorch beside it, warm"),
        ("over gRPC", "Over gRPC, one request at a time"),
        ("load", "Load"),
        ("agreement with the CPU", "Difference from the same graphs on the CPU"),
        ("failed", "Failed"),
        ("left out", "Left out for want of time"),
    ):
        if section in rows:
            found.append(_plain(title, rows[section]))
    if "kernels" in rows:
        found.append(_plain("Kernels of a query", [_without(row, "slowest") for row in rows["kernels"]]))
        first = rows["kernels"][0]["slowest"]
        slowest = tuple((name.replace("|", " "), str(count), f"{ms:.4f}") for name, count, ms in first[:15])
        found.append(ReportTable("Slowest kernels of the first of them", ("kernel", "runs", "ms"), slowest))
    return found


def _plain(title: str, rows: list[dict[str, Any]]) -> ReportTable:
    columns = [key for key in rows[0] if key != "at_seconds"]
    return ReportTable(title, tuple(columns), tuple(tuple(_text(row.get(key)) for key in columns) for row in rows))


def _without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def _text(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 0.01 else f"{value:,.2f}"
    return str(value).replace("|", " ")
