"""Lines, markers and boxes with a dark halo and a bright core, blended into a picture."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

HALO: Colour = (16, 16, 20)
"""Near black; drawn around bright strokes to keep them visible on light images."""

LONGER_SIDE = 960
"""Images smaller than this, in pixels, are enlarged to keep labels legible."""

_SUBSAMPLES = 4
"""Supersampling factor of masks: smooths edges and gives sub-pixel positions."""

_LARGEST_MASK = 2**24
"""Maximum pixels of a supersampled mask; larger windows use a smaller factor."""

_FAR = 1e6
"""Coordinates are clipped to this many pixels, which is beyond any image."""


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes in pixels: radius of a marker, width of a line, height of the font."""

    radius: float
    line: int
    font: int

    @classmethod
    def of(cls, width: int, height: int) -> Style:
        """Returns the sizes for a picture of this width and height, in pixels."""
        unit = max(width, height) / LONGER_SIDE
        return cls(radius=max(2.0, 5.5 * unit), line=max(1, round(2.2 * unit)), font=max(7, round(17 * unit)))


def keypoint_colour(index: int) -> Colour:
    """RGB colour of a keypoint: the same in every picture, and distinct from those of adjacent indices."""
    # Golden-ratio steps around the hue circle stay far from recent hues; three brightness levels separate the rest.
    hue = (0.02 + index * 0.618034) % 1.0
    saturation, value = ((0.75, 1.0), (0.95, 0.92), (0.5, 1.0))[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _blend(canvas: Pixels, mask: Pixels, corner: tuple[int, int], colour: Colour, alpha: float) -> None:
    """Blends a colour into the canvas by a mask, in place; `corner` is the mask's top left corner on the canvas."""
    left, top = corner
    rows, columns = np.nonzero(mask)
    weight = mask[rows, columns, None].astype(np.float32) * (alpha / 255)
    before = canvas[rows + top, columns + left]
    painted = np.rint(before * (1 - weight) + np.array(colour, dtype=np.float32) * weight)
    canvas[rows + top, columns + left] = painted.astype(np.uint8)


def _window(canvas: Pixels, points: npt.NDArray[np.float64], margin: float) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of the window around points, clipped to the canvas; None if empty."""
    height, width = canvas.shape[:2]
    low = np.clip(np.floor(points.min(axis=0) - margin), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(points.max(axis=0) + margin), 0, (width, height)).astype(int)
    if (high <= low).any():
        return None
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


class _Mask:
    """Coverage of a window's pixels by shapes, supersampled."""

    def __init__(self, width: int, height: int, origin: tuple[int, int]) -> None:
        self._scale = max(1, min(_SUBSAMPLES, math.isqrt(_LARGEST_MASK // (width * height))))
        self._origin = origin
        self._image = Image.new("L", (width * self._scale, height * self._scale))
        self._draw = ImageDraw.Draw(self._image)

    def disc(self, center: npt.NDArray[np.float64], radius: float) -> None:
        """Draws a disc; center [2] and radius in pixels of the canvas."""
        x, y = self._place(center)
        radius *= self._scale
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), 255)

    def line(self, start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], width: float) -> None:
        """Draws a line with round ends between two points [2]."""
        self._draw.line((*self._place(start), *self._place(end)), 255, max(1, round(width * self._scale)))
        for point in (start, end):
            self.disc(point, width / 2)

    def coverage(self) -> Pixels:
        """Returns coverage, uint8 [height, width]; 255 where a shape covers the whole pixel."""
        return np.array(self._image.reduce(self._scale))

    def _place(self, point: npt.NDArray[np.float64]) -> tuple[float, float]:
        # Integer coordinates are pixel centres.
        x, y = (np.clip(point - self._origin, -_FAR, _FAR) + 0.5) * self._scale - 0.5
        return float(x), float(y)


def draw_edge(
    canvas: Pixels,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    indices: tuple[int, int],
    alpha: float,
    style: Style,
) -> None:
    """Draws a line between two points [2] in the mean colour of two keypoints, in place."""
    window = _window(canvas, np.stack([start, end]), style.line * 3 + 2)
    if window is None:
        return
    left, top, width, height = window
    mixed = np.mean([keypoint_colour(index) for index in indices], axis=0)
    colour = (int(mixed[0]), int(mixed[1]), int(mixed[2]))
    for thickness, paint, share in ((style.line * 2 + 1, HALO, 0.55), (style.line, colour, 0.95)):
        mask = _Mask(width, height, (left, top))
        mask.line(start, end, thickness)
        _blend(canvas, mask.coverage(), (left, top), paint, alpha * share)


def draw_marker(canvas: Pixels, point: npt.NDArray[np.float64], colour: Colour, alpha: float, style: Style) -> None:
    """Draws a disc with a white and a dark ring around a point [2], in place."""
    window = _window(canvas, point[None], style.radius * 2 + 2)
    if window is None:
        return
    left, top, width, height = window
    rings: tuple[tuple[float, Colour], ...] = ((1.5, HALO), (1.2, (255, 255, 255)), (0.9, colour))
    for factor, paint in rings:
        mask = _Mask(width, height, (left, top))
        mask.disc(point, style.radius * factor)
        _blend(canvas, mask.coverage(), (left, top), paint, alpha)


def draw_box(canvas: Pixels, corner: npt.NDArray[np.float64], size: npt.NDArray[np.float64], style: Style) -> None:
    """Draws a thin frame given its top left corner [2] and size [2], in place."""
    ends = corner + size
    corners = [corner, np.array([ends[0], corner[1]]), ends, np.array([corner[0], ends[1]])]
    for thickness, paint, alpha in (
        (style.line + 2, HALO, 0.35),
        (max(1, style.line // 2), (255, 255, 255), 0.8),
    ):
        height, width = canvas.shape[:2]
        mask = _Mask(width, height, (0, 0))
        for first, last in zip(corners, [*corners[1:], corners[0]], strict=True):
            mask.line(first, last, thickness)
        _blend(canvas, mask.coverage(), (0, 0), paint, alpha)
