"""Reports of an evaluation as tables, Markdown and JSON. Shares are percentages in tables and 0–1 in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cape.evaluation.calibration import WRONG, Calibration
from cape.evaluation.evaluation import Evaluation
from cape.evaluation.metrics import THRESHOLDS, Scores

RELIABILITY_FILE = "reliability.png"


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        title: its caption.
        header: a name per column.
        rows: a cell per column.
        texts: columns that hold text; the others hold numbers.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[int, ...] = (0,)


def tables(evaluation: Evaluation) -> list[Table]:
    """Makes the tables: scores by category, super-category and overall; variations, if any; calibration."""
    rows = [_row(name, scores) for name, scores in evaluation.categories.items()]
    if len(evaluation.super_categories) > 1:
        rows += [_row(f"{name} (all)", scores) for name, scores in evaluation.super_categories.items()]
    if len(evaluation.categories) > 1:
        rows.append(_row("mean of categories", evaluation.mean_of_categories))
    rows.append(_row("all pairs", evaluation.overall))
    found = [Table("Scores", ("category", *_score_header()), tuple(rows))]
    if evaluation.variations:
        found.append(_variation_table(evaluation))
    calibration = evaluation.calibration
    found.append(
        Table(
            "Keypoint scores",
            ("keypoints", f"wrong (error > {WRONG} of the box), %", "AUROC of wrong", "ECE"),
            ((f"{calibration.keypoints}", _percent(calibration.wrong), *_decimals(calibration)),),
            texts=(),
        )
    )
    return found


def notes(evaluation: Evaluation) -> list[str]:
    """Notes on the tables, one sentence each."""
    configuration = evaluation.configuration
    found = [
        f"{configuration.shots}-shot, {len(evaluation.plan.episodes)} episodes, {evaluation.plan.pairs} pairs,"
        f" seed {configuration.seed}; used of the supports: {' and '.join(evaluation.run.modalities) or 'nothing'}."
    ]
    if evaluation.run.unscored:
        found.append(
            f"{evaluation.run.unscored} pairs have no keypoint that is visible in the query and in every support;"
            + (" they are left out." if configuration.scoring == "common" else " they count as 0, as published.")
        )
    if evaluation.overall.unlocated > 0:
        found.append(
            f"{_percent(evaluation.overall.unlocated)} % of the keypoints were not located: wrong at every threshold,"
            " left out of NME and EPE."
        )
    if evaluation.run.left_out:
        found.append(
            f"{evaluation.run.left_out} pairs are left out: {len(evaluation.run.unreadable)} objects cannot be read,"
            f" {evaluation.run.unreadable[0]} for one."
        )
    return [*found, *(f"{note}." for note in (*evaluation.data_notes, *evaluation.plan.notes))]


def markdown(evaluation: Evaluation, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """A Markdown document.

    Args:
        evaluation: the evaluation to report.
        pictures: titles and file names of further pictures beside the document.
    """
    lines = [f"# {evaluation.estimator}", "", f"On {evaluation.data}.", "", *notes(evaluation)]
    for table in tables(evaluation):
        lines += ["", f"## {table.title}", ""]
        rules = ("---" if column in table.texts else "--:" for column in range(len(table.header)))
        lines += ["| " + " | ".join(table.header) + " |", "|" + "|".join(rules) + "|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    lines += ["", f"![Reliability of the scores]({RELIABILITY_FILE})"]
    for title, name in pictures:
        lines += ["", f"![{title}]({name})", "", title]
    return "\n".join(lines) + "\n"


def document(evaluation: Evaluation) -> dict[str, Any]:
    """Converts all results to JSON types; NaN becomes null."""
    calibration = evaluation.calibration
    return {
        "estimator": evaluation.estimator,
        "data": evaluation.data,
        "configuration": evaluation.configuration.model_dump(mode="json"),
        "pairs": evaluation.plan.pairs,
        "unscored_pairs": evaluation.run.unscored,
        "modalities": list(evaluation.run.modalities),
        "left_out_pairs": evaluation.run.left_out,
        "unreadable": list(evaluation.run.unreadable),
        "notes": [*evaluation.data_notes, *evaluation.plan.notes],
        "overall": _numbers(evaluation.overall),
        "mean_of_categories": _numbers(evaluation.mean_of_categories),
        "super_categories": {name: _numbers(scores) for name, scores in evaluation.super_categories.items()},
        "categories": {name: _numbers(scores) for name, scores in evaluation.categories.items()},
        "variations": {
            outcome.variation.name: {
                "description": outcome.variation.description,
                "modalities": list(outcome.modalities),
                "scores": None if outcome.scores is None else _numbers(outcome.scores),
                "reason": outcome.reason,
            }
            for outcome in evaluation.variations
        },
        "calibration": {
            "keypoints": calibration.keypoints,
            "wrong": _number(calibration.wrong),
            "auroc": _number(calibration.auroc),
            "ece": _number(calibration.ece),
            "bins": [
                {
                    "low": one.low,
                    "high": one.high,
                    "count": one.count,
                    "score": _number(one.score),
                    "right": _number(one.right),
                }
                for one in calibration.bins
            ],
        },
    }


def _variation_table(evaluation: Evaluation) -> Table:
    base = evaluation.overall
    used = " and ".join(evaluation.run.modalities)
    rows = [("as annotated", *_variation_cells(base, base), used, "")]
    for outcome in evaluation.variations:
        cells = ("-",) * 4 if outcome.scores is None else _variation_cells(outcome.scores, base)
        reason = outcome.reason or outcome.variation.description
        rows.append((outcome.variation.name, *cells, " and ".join(outcome.modalities) or "-", reason))
    header = ("supports", "PCK@0.2, %", "change", "mPCK, %", "NME", "used", "what")
    return Table("Robustness, on the same pairs", header, tuple(rows), texts=(0, 5, 6))


def _variation_cells(scores: Scores, base: Scores) -> tuple[str, ...]:
    change = 100 * (scores.pck_at(0.2) - base.pck_at(0.2))
    return _percent(scores.pck_at(0.2)), f"{change:+.2f}", _percent(scores.mpck), _fixed(scores.nme, 4)


def _score_header() -> tuple[str, ...]:
    return ("pairs", *(f"PCK@{threshold:g}, %" for threshold in THRESHOLDS), "mPCK, %", "NME", "AUC", "EPE, px")


def _row(name: str, scores: Scores) -> tuple[str, ...]:
    shares = [_percent(value) for value in (*scores.pck, scores.mpck)]
    return (
        name,
        str(scores.pairs),
        *shares,
        _fixed(scores.nme, 4),
        _fixed(scores.auc, 4),
        _fixed(scores.epe, 2),
    )


def _decimals(calibration: Calibration) -> tuple[str, str]:
    return _fixed(calibration.auroc, 3), _fixed(calibration.ece, 3)


def _percent(share: float) -> str:
    return _fixed(100 * share, 2)


def _fixed(value: float, decimals: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def _numbers(scores: Scores) -> dict[str, float | int | None]:
    return {
        "pairs": scores.pairs,
        "keypoints": scores.keypoints,
        **{f"pck@{threshold:g}": _number(value) for threshold, value in zip(THRESHOLDS, scores.pck, strict=True)},
        "mpck": _number(scores.mpck),
        "nme": _number(scores.nme),
        "auc": _number(scores.auc),
        "epe": _number(scores.epe),
        "unlocated": _number(scores.unlocated),
    }


def _number(value: float) -> float | None:
    """Rounds to six decimals, more than is significant; NaN becomes None, because JSON has no NaN."""
    return None if math.isnan(value) else round(value, 6)
