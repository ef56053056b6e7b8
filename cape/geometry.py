"""Maps between an image and the square crop of a box that models see.

Training, evaluation and serving share this code: a difference of one pixel would be an error of one pixel everywhere.
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
"""Tolerance in pixels for a crop to count as aligned with the pixel grid; too small to change an 8-bit value."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A square region of an image, resized to `size` × `size`.

    Attributes:
        left: x of the square's left edge, in pixels of the image; may be negative.
        top: y of its top edge, in pixels of the image; may be negative.
        side: length of its side, in pixels of the image.
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
        """Returns the crop around a box, given its top left corner and size in pixels of the image.

        Raises:
            ValueError: the box has no area.
        """
        if not (width > 0 and height > 0):
            raise ValueError(f"a box needs a width and a height, not {width} × {height}")
        side = max(width, height) * padding
        return cls(x + width / 2 - side / 2, y + height / 2 - side / 2, side, size)

    def extract(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Extracts the crop from an image. Pixels outside the image are black.

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
        """Returns the crop as a view if it is aligned with the pixel grid; warping would give identical pixels."""
        left, top = round(self.left), round(self.top)
        inside = 0 <= left <= image.shape[1] - self.size and 0 <= top <= image.shape[0] - self.size
        offset = max(abs(self.left - left), abs(self.top - top), abs(self.side - self.size))
        if not inside or offset > ALIGNED:
            return None
        return np.ascontiguousarray(image[top : top + self.size, left : left + self.size])

    def to_crop(self, points: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Maps points [..., 2] from pixels of the image to fractions of the crop."""
        origin = np.array([self.left, self.top], dtype=np.float64)
        return ((np.asarray(points, dtype=np.float64) - origin) / self.side).astype(np.float32)

    def to_image(self, points: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Maps points [..., 2] from fractions of the crop to pixels of the image."""
        origin = np.array([self.left, self.top], dtype=np.float64)
        return (np.asarray(points, dtype=np.float64) * self.side + origin).astype(np.float32)
