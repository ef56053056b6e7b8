"""Metrics: PCK, NME, AUC and EPE, as MP-100's published evaluation defines them.

All are computed for each test pair over its scored keypoints (visible in the query and in every support) and then
averaged over pairs (public GraphCape and CapeX code, which call mmpose's functions pair by pair).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cape.support import Box

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25)
"""Thresholds at which PCK is reported; mPCK is the mean over them."""

AUC_STEPS = 20
"""AUC is the mean PCK at 0, 1/20, …, 19/20 (mmpose, `keypoint_auc`)."""

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one pair, or means over pairs.

    Attributes:
        pairs: number of pairs.
        keypoints: number of scored keypoints.
        pck: 0–1, one value for each of `THRESHOLDS`.
        auc: 0–1.
        nme: mean error ÷ longer side of the box; NaN if no keypoint was located.
        epe: mean error in pixels of the query's image; NaN likewise.
        unlocated: share of the keypoints that the model did not locate. They count as wrong at every threshold and are
            excluded from `nme` and `epe`.
    """

    pairs: int
    keypoints: int
    pck: tuple[float, ...]
    auc: float
    nme: float
    epe: float
    unlocated: float

    @property
    def mpck(self) -> float:
        """Mean PCK over the thresholds."""
        return float(np.mean(self.pck))

    def pck_at(self, threshold: float) -> float:
        """PCK at one of `THRESHOLDS`."""
        return self.pck[THRESHOLDS.index(threshold)]


def box_length(box: Box) -> float:
    """Length that normalises errors: the longer side of the query's box, in pixels."""
    return max(box.width, box.height)


def pixel_errors(predicted: npt.ArrayLike, annotated: npt.ArrayLike, located: npt.ArrayLike) -> Float:
    """Distances [N] of points [N, 2] in pixels; infinite where there is no prediction."""
    difference = np.asarray(predicted, dtype=np.float64) - np.asarray(annotated, dtype=np.float64)
    return np.where(located, np.hypot(difference[:, 0], difference[:, 1]), np.inf)


def pck(distances: npt.ArrayLike, threshold: float) -> float:
    """Share of distances [N] below a threshold, strictly; both are fractions of the box."""
    return float((np.asarray(distances, dtype=np.float64) < threshold).mean())


def score_pair(errors: npt.ArrayLike, length: float) -> Scores:
    """Scores of one test pair.

    Args:
        errors: [N] in pixels, of the scored keypoints; infinite where not located. N is at least 1.
        length: longer side of the query's box, in pixels.
    """
    pixels = np.asarray(errors, dtype=np.float64)
    distances = pixels / length
    finite = np.isfinite(pixels)
    return Scores(
        pairs=1,
        keypoints=len(pixels),
        pck=tuple(pck(distances, threshold) for threshold in THRESHOLDS),
        auc=float(np.mean([pck(distances, step / AUC_STEPS) for step in range(AUC_STEPS)])),
        nme=float(distances[finite].mean()) if finite.any() else float("nan"),
        epe=float(pixels[finite].mean()) if finite.any() else float("nan"),
        unlocated=float(1 - finite.mean()),
    )


ZERO = Scores(
    pairs=1, keypoints=0, pck=(0.0,) * len(THRESHOLDS), auc=0.0, nme=float("nan"), epe=float("nan"), unlocated=0.0
)
"""Scores that the published evaluation gives a pair without a common visible keypoint."""


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Unweighted mean of scores. Pairs and keypoints are summed.

    Raises:
        ValueError: there are none.
    """
    if not scores:
        raise ValueError("scores: at least one")
    return Scores(
        pairs=sum(one.pairs for one in scores),
        keypoints=sum(one.keypoints for one in scores),
        pck=tuple(float(value) for value in np.mean([one.pck for one in scores], axis=0)),
        auc=float(np.mean([one.auc for one in scores])),
        nme=_finite_mean([one.nme for one in scores]),
        epe=_finite_mean([one.epe for one in scores]),
        unlocated=float(np.mean([one.unlocated for one in scores])),
    )


def _finite_mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
