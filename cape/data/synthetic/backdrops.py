"""Real images as backdrops of procedural objects."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cape.data.dataset import DatasetError

SUFFIXES = (".jpg", ".jpeg", ".png")

SHARE = 0.6
"""Share of pictures that get a real backdrop; the others keep a drawn one."""

SMALLEST_PART = 0.5
"""Shortest side of the part that is used ÷ shorter side of the image."""


class Backdrops:
    """The images of a folder and its subfolders.

    Args:
        folder: holds JPEG or PNG files.

    Raises:
        DatasetError: it holds none.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES))
        if not self.paths:
            raise DatasetError(f"{folder}: no JPEG or PNG image for backdrops")

    def draw(self, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8] | None:
        """A random square part of a random image, perhaps mirrored and with its colours swapped.

        Args:
            size: side of the result, in pixels.
            rng: draws; it always draws the same numbers, whatever the image.

        Returns:
            RGB, uint8 [size, size, 3]; None for a picture that keeps its drawn backdrop, or an unreadable image.
        """
        real = rng.random() < SHARE
        path = self.paths[int(rng.integers(len(self.paths)))]
        share, left, top, mirror, swap = rng.random(5).tolist()
        order = rng.permutation(3).tolist()
        image = _read(path) if real else None
        if image is None:
            return None
        height, width = image.shape[:2]
        side = max(1, int(min(height, width) * (SMALLEST_PART + (1 - SMALLEST_PART) * share)))
        x, y = int(left * (width - side + 1)), int(top * (height - side + 1))
        part = cv2.resize(image[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_LINEAR)
        if mirror < 0.5:
            part = part[:, ::-1]
        if swap < 0.3:
            part = part[:, :, order]
        return np.ascontiguousarray(part, dtype=np.uint8)


@lru_cache(maxsize=512)
def _read(path: Path) -> npt.NDArray[np.uint8] | None:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
