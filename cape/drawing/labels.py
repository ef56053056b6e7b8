"""Places labels so that they cover neither each other nor the keypoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_DIRECTIONS = np.array(
    # Right and left first: labels are wider than high, and read best beside their keypoint.
    [
        (1, 0),
        (-1, 0),
        (1, -1),
        (1, 1),
        (-1, -1),
        (-1, 1),
        (0, -1),
        (0, 1),
        (1, -0.5),
        (1, 0.5),
        (-1, -0.5),
        (-1, 0.5),
    ],
    dtype=np.float64,
)

_RINGS = (0.0, 1.0, 2.0, 3.5, 5.0, 7.0, 9.0, 12.0)
"""Largest distance of a label from its keypoint, in label heights."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Placed labels.

    Attributes:
        corners: float64 [N, 2], top left corner of each label.
        distances: float64 [N], from each keypoint to the nearest point of its label.
        overlap: share of the labels' area that overlaps labels or keypoints, or lies outside the picture.
    """

    corners: npt.NDArray[np.float64]
    distances: npt.NDArray[np.float64]
    overlap: float


def place_labels(
    points: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.float64],
    bounds: tuple[float, float],
    clearance: float,
) -> Placement:
    """Greedily places each label at the nearby candidate with the least overlap.

    Labels of keypoints with near neighbours are placed first, because they have the fewest free places.

    Args:
        points: [N, 2], the labelled points.
        sizes: [N, 2], width and height of the labels.
        bounds: width and height of the picture.
        clearance: radius around points that stays free of labels.
    """
    count = len(points)
    corners = np.zeros((count, 2))
    distances = np.zeros(count)
    if count == 0:
        return Placement(corners, distances, 0.0)
    markers = np.concatenate([points - clearance, points + clearance], axis=1)
    placed = np.zeros((0, 4))
    total = 0.0
    for index in _crowded_first(points):
        candidates, lengths = _candidates(points[index], sizes[index], clearance)
        boxes = np.concatenate([candidates, candidates + sizes[index]], axis=1)
        covered = _overlaps(boxes, placed).sum(1) + _overlaps(boxes, markers).sum(1) + _outside(boxes, bounds)
        # The nearest free place wins; any overlap is worse than any distance.
        cost = covered / sizes[index].prod() * 100 + lengths / sizes[index][1]
        best = int(np.argmin(cost))
        corners[index], distances[index] = candidates[best], lengths[best]
        placed = np.concatenate([placed, boxes[best : best + 1]])
        total += covered[best]
    return Placement(corners, distances, float(total / sizes.prod(axis=1).sum()))


def _crowded_first(points: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    nearest = np.sort(gaps, axis=1)[:, : min(3, len(points))]
    return np.argsort(np.where(np.isfinite(nearest), nearest, 1e9).mean(axis=1), kind="stable")


def _candidates(
    point: npt.NDArray[np.float64], size: npt.NDArray[np.float64], clearance: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Candidate top left corners [C, 2] of one label, and their distances [C] from its point."""
    corners = []
    for ring in _RINGS:
        reach = clearance * 1.3 + ring * size[1]
        centre = point + _DIRECTIONS * reach + np.sign(_DIRECTIONS) * size / 2
        corners.append(centre - size / 2)
    found = np.concatenate(corners)
    gap = np.maximum(np.maximum(found - point, point - found - size), 0)
    return found, np.linalg.norm(gap, axis=1)


def _overlaps(boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection areas [N, M] of boxes [N, 4] with boxes [M, 4] (left, top, right, bottom)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=-1))


def _outside(boxes: npt.NDArray[np.float64], bounds: tuple[float, float]) -> npt.NDArray[np.float64]:
    inside = _overlaps(boxes, np.array([[0.0, 0.0, *bounds]]))[:, 0]
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - inside)
