"""Calibration of keypoint scores: ranking (AUROC) and reliability (expected calibration error)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cape.evaluation.run import PairResult

WRONG = 0.2
"""A keypoint is wrong when its error is more than this share of the longer side of the box."""

BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Keypoints whose score lies in one interval.

    Attributes:
        low: lower end, inclusive.
        high: upper end, exclusive except in the last bin.
        count: number of keypoints.
        score: their mean score; NaN if there are none.
        right: share of them that is correct; NaN if there are none.
    """

    low: float
    high: float
    count: int
    score: float
    right: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration over all scored and located keypoints of all pairs.

    Attributes:
        keypoints: number of keypoints.
        wrong: share that is wrong.
        auroc: probability that a wrong keypoint has a lower score than a correct one, ties counting half; 0.5 is
            chance level. NaN if all are correct or all are wrong.
        ece: expected calibration error: mean difference between score and share correct over the bins, weighted by
            their counts.
        bins: `BINS` of equal width.
    """

    keypoints: int
    wrong: float
    auroc: float
    ece: float
    bins: tuple[ReliabilityBin, ...]


def calibrate(results: Sequence[PairResult]) -> Calibration:
    """Measures the calibration of scores on test pairs."""
    counted = [result.scored & result.pose.located for result in results]
    scores = _joined([result.pose.scores[mask] for result, mask in zip(results, counted, strict=True)])
    distances = _joined([result.errors[mask] / result.length for result, mask in zip(results, counted, strict=True)])
    wrong = distances > WRONG
    bins = reliability_bins(scores, ~wrong)
    return Calibration(
        keypoints=len(scores),
        wrong=float(wrong.mean()) if len(wrong) else float("nan"),
        auroc=auroc(-scores, wrong),
        ece=expected_calibration_error(bins),
        bins=bins,
    )


def auroc(values: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Area under the ROC curve: probability that a positive has a higher value than a negative, ties counting half.

    Args:
        values: [N].
        positive: bool [N].

    Returns:
        0–1; NaN without a positive or without a negative.
    """
    numbers = np.asarray(values, dtype=np.float64)
    labels = np.asarray(positive, dtype=np.bool_)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    # Mann–Whitney: the sum of the positives' ranks; equal values get the mean of their ranks.
    _, group, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def reliability_bins(scores: npt.ArrayLike, right: npt.ArrayLike, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Sorts scores [N], 0–1, and whether each was right, bool [N], into bins of equal width."""
    numbers = np.asarray(scores, dtype=np.float64)
    correct = np.asarray(right, dtype=np.bool_)
    places = np.clip((numbers * bins).astype(np.int64), 0, bins - 1)
    found = []
    for index in range(bins):
        inside = places == index
        count = int(inside.sum())
        found.append(
            ReliabilityBin(
                low=index / bins,
                high=(index + 1) / bins,
                count=count,
                score=float(numbers[inside].mean()) if count else float("nan"),
                right=float(correct[inside].mean()) if count else float("nan"),
            )
        )
    return tuple(found)


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean |score − share correct| over bins, weighted by their counts; NaN if all are empty."""
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.score - one.right) for one in bins if one.count) / total if total else float("nan")


def _joined(parts: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.float64]:
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
