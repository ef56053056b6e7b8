"""Chooses which keypoints to explain by default."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def spread_out(points: npt.ArrayLike, count: int) -> list[int]:
    """Picks points far from each other (farthest-point sampling, starting with the outermost point).

    Args:
        points: [N, 2].
        count: maximum number to pick.

    Returns:
        Their indices, ascending.
    """
    places = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if len(places) <= count:
        return list(range(len(places)))
    gap = np.linalg.norm(places - places.mean(0), axis=1)
    picked: list[int] = []
    for _ in range(count):
        picked.append(int(gap.argmax()))
        distance = np.linalg.norm(places - places[picked[-1]], axis=1)
        gap = distance if len(picked) == 1 else np.minimum(gap, distance)
        gap[picked] = -1
    return sorted(picked)
