"""Where a box of a photograph lies in the square crop that the models see, and back.

One source for training, evaluation and serving: a pixel of difference here is a pixel of error in every answer.
The crop is the published one: centre of the box, side = longer side × padding, bilinear (public GraphCape code).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

BOX_PADDING = 1.25
"""Side of the crop ÷ longer side of the box, as in the published GraphCape and CapeX configurations."""


ALIGNED = 1e-4
"""Pixels by which a crop may miss the grid and still count as on it. No 8-bit pixel shows such rounding of a box."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of a photograph, `size` × `size` once resized.

    Attributes:
        left: x of the square's left edge, in pixels of the photograph; may be negative.
        top: y of its top edge, likewise.
        side: length of its side, in pixels of the photograph.
        size: side of the resized square, in pixels.
    """

    left: float
    top: float
    side: float
    size: int

    @classmethod
    def around(
        cls, x: float, y: float, width: float, height: float, *, size: int, padding: float = BOX_PADDING
    ) -> Crop:
        """The crop of a box given by its top left corner and its size, all in pixels of the photograph.

        Raises:
            ValueError: the box has no area.
        """
        if not (width > 0 and height > 0):
            raise ValueError(f"a box needs a width and a height, not {width} × {height}")
        side = max(width, height) * padding
        return cls(x + width / 2 - side / 2, y + height / 2 - side / 2, side, size)

    def extract(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Cuts the crop out of an image, black where it reaches over the edge.

        Args:
            image: RGB, uint8 [H, W, 3].

        Returns:
            RGB, uint8 [size, size, 3].
        """
        aligned = self._aligned(image)
        if aligned is not None:
            return aligned
        scale = self.size / self.side
        # The crop's centre maps to the centre of the square: (x − centre) · scale + size / 2.
        matrix = np.array([[scale, 0.0, -self.left * scale], [0.0, scale, -self.top * scale]], dtype=np.float64)
        warped = cv2.warpAffine(image, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR)
        return np.asarray(warped, dtype=np.uint8)

    def _aligned(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
        """The crop as a view, where its pixels are pixels of the image: warping would give the same ones."""
        left, top = round(self.left), round(self.top)
        inside = 0 <= left <= image.shape[1] - self.size and 0 <= top <= image.shape[0] - self.size
        offset = max(abs(self.left - left), abs(self.top - top), abs(self.side - self.size))
        if not inside or offset > ALIGNED:
            return None
        return np.ascontiguousarray(image[top : top + self.size, left : left + self.size])

    def to_crop(self, points: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Maps points [..., 2] from pixels of the photograph to the crop, 0–1."""
        origin = np.array([self.left, self.top], dtype=np.float64)
        return ((np.asarray(points, dtype=np.float64) - origin) / self.side).astype(np.float32)

    def to_image(self, points: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Maps points [..., 2] from the crop, 0–1, to pixels of the photograph."""
        origin = np.array([self.left, self.top], dtype=np.float64)
        return (np.asarray(points, dtype=np.float64) * self.side + origin).astype(np.float32)
