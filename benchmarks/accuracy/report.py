"""The results of `capeserve bench accuracy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.accuracy.measurement import Comparison, Moved
from benchmarks.harness.tables import NONE, ReportTable
from cape.evaluation.metrics import THRESHOLDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = (0.05, 0.2)
"""PCK thresholds in the tables."""

HEADER = (
    "answers of",
    *(f"PCK@{threshold:g}, %" for threshold in SHOWN),
    *(f"lost @{threshold:g}, points" for threshold in SHOWN),
    "keypoints moved: median, %",
    "99 %",
    "largest",
)


def tables(comparisons: Sequence[Comparison], notes: Sequence[str] = ()) -> tuple[ReportTable, ...]:
    """One table per data set; `notes` follow the first."""
    explained = (
        "Lost: PCK of the first row less that of this one; below 0 where it gains.",
        "Moved: distance to the first row's keypoints, % of the longer side of the query's box, over all keypoints "
        "that both located. A similarity map with two peaks of nearly the same height lets a keypoint "
        "jump: the largest is one keypoint of thousands.",
    )
    return tuple(
        ReportTable(
            f"{comparison.data}: {comparison.ways[0].scores.pairs} pairs, "
            f"{comparison.ways[0].scores.keypoints} keypoints",
            HEADER,
            tuple(_row(comparison, number) for number in range(len(comparison.ways))),
            (*explained, *notes) if place == 0 else (),
        )
        for place, comparison in enumerate(comparisons)
    )


def document(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Everything as JSON: fractions, and losses in percentage points."""
    return {
        "thresholds": THRESHOLDS,
        "comparisons": [
            asdict(one)
            | {
                "ways": [
                    asdict(way) | {"lost_points": {f"{at:g}": one.lost(way, at) for at in THRESHOLDS}}
                    for way in one.ways
                ]
            }
            for one in comparisons
        ],
    }


def draw(comparisons: Sequence[Comparison], figure: Figure) -> None:
    """Bars of PCK at the smaller and the larger threshold."""
    for place, comparison in enumerate(comparisons, start=1):
        axes = figure.add_subplot(len(comparisons), 1, place)
        names = [way.name for way in comparison.ways]
        for index, threshold in enumerate(SHOWN):
            places = [number + 0.4 * index for number in range(len(names))]
            values = [100 * way.scores.pck_at(threshold) for way in comparison.ways]
            bars = axes.barh(places, values, height=0.38, label=f"PCK@{threshold:g}, %")
            axes.bar_label(bars, fmt="%.2f", fontsize=7)
        axes.set_yticks([number + 0.2 for number in range(len(names))], names, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlim(0, 110)
        axes.set_title(comparison.data, fontsize="small")
        axes.legend(fontsize=7, loc="lower right")


def _row(comparison: Comparison, number: int) -> tuple[str, ...]:
    way = comparison.ways[number]
    return (
        way.name,
        *(f"{100 * way.scores.pck_at(threshold):.2f}" for threshold in SHOWN),
        *(NONE if number == 0 else f"{comparison.lost(way, threshold):+.2f}" for threshold in SHOWN),
        *_moved(way.moved),
    )


def _moved(moved: Moved | None) -> tuple[str, str, str]:
    if moved is None:
        return NONE, NONE, NONE
    return f"{100 * moved.median:.4f}", f"{100 * moved.p99:.4f}", f"{100 * moved.largest:.3f}"
