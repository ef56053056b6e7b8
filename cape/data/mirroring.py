"""Keypoints that change places when an image is mirrored: those whose names differ in "left" and "right" alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def mirror_partners(names: Sequence[str]) -> tuple[int, ...]:
    """For each keypoint, the index of the one it becomes in a mirrored image.

    Args:
        names: of the K keypoints of a category.

    Returns:
        K indices; a keypoint without a partner ("nose", or a "left" one without a "right" one) has its own.
    """
    return _partners(tuple(names))


@lru_cache(maxsize=4096)
def _partners(names: tuple[str, ...]) -> tuple[int, ...]:
    places = {name.lower(): index for index, name in enumerate(names)}
    return tuple(places.get(_other_side(name), index) for index, name in enumerate(names))


def _other_side(name: str) -> str:
    return _SIDE.sub(lambda match: "right" if match[1].lower() == "left" else "left", name).lower()
