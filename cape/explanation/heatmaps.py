"""Heat maps over crops, with proposals and keypoints."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from cape.drawing.strokes import HALO, Colour, Pixels

_PHOTOGRAPH = 0.55
"""Brightness of the image below the heat: recognisable, but too dark to be taken for heat."""

_HEAT = 0.9
"""Opacity of the heat at the highest value."""

_PROPOSAL: Colour = (90, 230, 255)
"""Colour of the cross at the initial proposal."""


def heat_panel(
    crop: Pixels,
    values: npt.NDArray[np.float32],
    size: int,
    *,
    start: npt.NDArray[np.float32],
    end: npt.NDArray[np.float32],
    colour: Colour,
) -> Pixels:
    """Draws a map over a crop, with a cross at the initial proposal and a ring at the final keypoint.

    The lowest value of the map leaves the grey image unchanged; the highest is brightest.

    Args:
        crop: RGB, uint8 [S, S, 3].
        values: [H, W] cells over the crop.
        size: side of the picture, in pixels.
        start: [2], fractions of the crop.
        end: [2], likewise.
        colour: of the ring.

    Returns:
        RGB, uint8 [size, size, 3].
    """
    photograph = cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] * _PHOTOGRAPH
    spread = float(values.max() - values.min())
    heat = (values - values.min()) / (spread if spread > 0 else 1.0)
    heat = np.clip(cv2.resize(heat.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)
    weight = (_HEAT * heat)[..., None]
    panel: Pixels = np.rint(grey * (1 - weight) + heat_colours(heat) * weight).astype(np.uint8)
    draw_ring(panel, (float(end[0]) * size, float(end[1]) * size), size / 24, colour)
    draw_cross(panel, (float(start[0]) * size, float(start[1]) * size), size / 40)
    return panel


def heat_colours(heat: npt.NDArray[np.float32]) -> Pixels:
    """Maps values [H, W], 0–1, to colours [H, W, 3], dark to bright."""
    coloured = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def draw_cross(canvas: Pixels, centre: tuple[float, float], reach: float) -> None:
    """Draws the cross of a proposal, in place; `reach` is half its side, in pixels."""
    x, y = _bounded(centre)
    for thickness, paint in ((4, HALO), (2, _PROPOSAL)):
        for sign in (-1, 1):
            first = (round(x - reach), round(y - sign * reach))
            last = (round(x + reach), round(y + sign * reach))
            cv2.line(canvas, first, last, paint, thickness, cv2.LINE_AA)


def draw_ring(canvas: Pixels, centre: tuple[float, float], radius: float, colour: Colour) -> None:
    """Draws a ring, in place; the heat inside it stays visible."""
    x, y = _bounded(centre)
    for thickness, paint in ((5, HALO), (3, colour)):
        cv2.circle(canvas, (round(x), round(y)), round(radius), paint, thickness, cv2.LINE_AA)


def _bounded(point: tuple[float, float]) -> tuple[float, float]:
    """Clips a point to coordinates that OpenCV's integers can hold."""
    return min(max(point[0], -1e4), 1e4), min(max(point[1], -1e4), 1e4)
