"""Lines, markers and boxes with a dark halo and a bright core, blended into a picture."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

HALO: Colour = (16, 16, 20)
"""Near black, around everything bright that is drawn: what makes it readable on light photographs."""

LONGER_SIDE = 960
"""Photographs smaller than this, in pixels, are enlarged so that labels stay legible."""

_SHIFT = 4
"""Bits of sub-pixel precision in OpenCV's drawing calls."""


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes in pixels: radius of a marker, width of a line, height of the font."""

    radius: float
    line: int
    font: int

    @classmethod
    def of(cls, width: int, height: int) -> Style:
        """The sizes for a picture of this width and height, in pixels."""
        unit = max(width, height) / LONGER_SIDE
        return cls(radius=max(2.0, 5.5 * unit), line=max(1, round(2.2 * unit)), font=max(7, round(17 * unit)))


def keypoint_colour(index: int) -> Colour:
    """The colour of a keypoint, RGB: the same in every picture, and far from its neighbours' in order."""
    # Golden-ratio steps around the hue circle never come near a recent hue; three brightnesses part the rest.
    hue = (0.02 + index * 0.618034) % 1.0
    saturation, value = ((0.75, 1.0), (0.95, 0.92), (0.5, 1.0))[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _blend(canvas: Pixels, mask: Pixels, corner: tuple[int, int], colour: Colour, alpha: float) -> None:
    """Paints a colour where the mask is, in place; `corner` is the mask's top left corner on the canvas."""
    left, top = corner
    rows, columns = np.nonzero(mask)
    weight = mask[rows, columns, None].astype(np.float32) * (alpha / 255)
    before = canvas[rows + top, columns + left]
    painted = np.rint(before * (1 - weight) + np.array(colour, dtype=np.float32) * weight)
    canvas[rows + top, columns + left] = painted.astype(np.uint8)


def _window(canvas: Pixels, points: npt.NDArray[np.float64], margin: float) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of what lies around points on the canvas; None if that is nothing."""
    height, width = canvas.shape[:2]
    low = np.clip(np.floor(points.min(axis=0) - margin), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(points.max(axis=0) + margin), 0, (width, height)).astype(int)
    if (high <= low).any():
        return None
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def _fixed(point: npt.NDArray[np.float64], left: int, top: int) -> tuple[int, int]:
    """A point in OpenCV's fixed-point coordinates; far away ones are brought to where 32 bits suffice."""
    x, y = np.clip(np.rint((point - (left, top)) * (1 << _SHIFT)), -(2**27), 2**27)
    return int(x), int(y)


def draw_edge(
    canvas: Pixels,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    indices: tuple[int, int],
    alpha: float,
    style: Style,
) -> None:
    """Draws a line between two points [2], in the mixed colour of two keypoints, in place."""
    window = _window(canvas, np.stack([start, end]), style.line * 3 + 2)
    if window is None:
        return
    left, top, width, height = window
    mixed = np.mean([keypoint_colour(index) for index in indices], axis=0)
    colour = (int(mixed[0]), int(mixed[1]), int(mixed[2]))
    for thickness, paint, share in ((style.line * 2 + 1, HALO, 0.55), (style.line, colour, 0.95)):
        mask = np.zeros((height, width), dtype=np.uint8)
        first, last = _fixed(start, left, top), _fixed(end, left, top)
        cv2.line(mask, first, last, 255, thickness, cv2.LINE_AA, _SHIFT)
        _blend(canvas, mask, (left, top), paint, alpha * share)


def draw_marker(canvas: Pixels, point: npt.NDArray[np.float64], colour: Colour, alpha: float, style: Style) -> None:
    """Draws a disc with a white and a dark ring around a point [2], in place."""
    window = _window(canvas, point[None], style.radius * 2 + 2)
    if window is None:
        return
    left, top, width, height = window
    rings: tuple[tuple[float, Colour], ...] = ((1.5, HALO), (1.2, (255, 255, 255)), (0.9, colour))
    for factor, paint in rings:
        mask = np.zeros((height, width), dtype=np.uint8)
        radius = max(1, round(style.radius * factor * (1 << _SHIFT)))
        cv2.circle(mask, _fixed(point, left, top), radius, 255, -1, cv2.LINE_AA, _SHIFT)
        _blend(canvas, mask, (left, top), paint, alpha)


def draw_box(canvas: Pixels, corner: npt.NDArray[np.float64], size: npt.NDArray[np.float64], style: Style) -> None:
    """Draws a thin frame of a top left corner [2] and a size [2], in place."""
    first, last = _fixed(corner, 0, 0), _fixed(corner + size, 0, 0)
    for thickness, paint, alpha in (
        (style.line + 2, HALO, 0.35),
        (max(1, style.line // 2), (255, 255, 255), 0.8),
    ):
        mask = np.zeros(canvas.shape[:2], dtype=np.uint8)
        cv2.rectangle(mask, first, last, 255, thickness, cv2.LINE_AA, _SHIFT)
        _blend(canvas, mask, (0, 0), paint, alpha)
