"""The results of `capeserve bench roofline`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.harness.tables import ReportTable, milliseconds
from benchmarks.roofline.measurement import Roofline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = (
    "backbone",
    "engine",
    "graph",
    "batch",
    "peak, GFLOP/s",
    "products, GFLOP",
    "products at the peak, ms",
    "run, ms",
    "run ÷ products at the peak",
)


def tables(rooflines: Sequence[Roofline]) -> tuple[ReportTable, ...]:
    """One table."""
    return (
        ReportTable(
            "The image backbone beside its matrix products at the measured peak",
            HEADER,
            tuple(
                (
                    f"{one.repository}, {one.backbone}",
                    one.engine,
                    one.stored,
                    str(one.batch),
                    f"{2e-9 * one.peak:.1f}",
                    f"{2e-9 * one.multiply_adds:.2f}",
                    milliseconds(one.ideal_seconds),
                    milliseconds(one.seconds),
                    f"{one.ratio:.2f}",
                )
                for one in rooflines
            ),
            (
                "Peak: the fastest of large square products, run by the same engine with the same options, in turns "
                "with the backbone; medians. A multiply-add is two FLOP.",
                "Products: MatMul, Gemm and Conv of the graph, counted from it.",
                "A graph in int8 stands beside the peak of float32 products all the same.",
            ),
        ),
    )


def document(rooflines: Sequence[Roofline]) -> dict[str, Any]:
    """Everything as JSON; times in seconds, peaks in multiply-adds a second."""
    return {"rooflines": [asdict(one) | {"ideal_seconds": one.ideal_seconds, "ratio": one.ratio} for one in rooflines]}


def draw(rooflines: Sequence[Roofline], figure: Figure) -> None:
    """Time of a run, and the time of its products at the peak."""
    axes = figure.add_subplot()
    labels = [f"{one.repository}, {one.engine},\nbatch {one.batch}" for one in rooflines]
    bars = axes.barh(labels, [1000 * one.seconds / one.batch for one in rooflines], label="run, ms per image")
    axes.barh(labels, [1000 * one.ideal_seconds / one.batch for one in rooflines], label="its products at the peak")
    axes.bar_label(bars, [f"{one.ratio:.2f} ×" for one in rooflines], fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    axes.legend(fontsize=8)
