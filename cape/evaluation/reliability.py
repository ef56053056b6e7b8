"""The reliability diagram: share of correct keypoints by score."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from cape.drawing.fonts import load_font
from cape.drawing.strokes import Colour, Pixels
from cape.evaluation.calibration import WRONG, Calibration

_PLOT = 480
"""Side of the diagram, in pixels."""

_HISTOGRAM = 110
_LEFT, _TOP, _RIGHT, _GAP, _BOTTOM = 84, 76, 28, 30, 66

_BACKGROUND: Colour = (255, 255, 255)
_INK: Colour = (40, 40, 46)
_FAINT: Colour = (150, 150, 158)
_GRID: Colour = (228, 228, 232)
_BAR: Colour = (76, 120, 200)
_MISSING: Colour = (240, 170, 150)


def reliability_diagram(calibration: Calibration) -> Pixels:
    """Draws the share of correct keypoints by score bin, the diagonal, and the counts below.

    Returns:
        RGB, uint8.
    """
    width, height = _LEFT + _PLOT + _RIGHT, _TOP + _PLOT + _GAP + _HISTOGRAM + _BOTTOM
    page = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(page)
    font, small = load_font(17), load_font(14)
    draw.text((_LEFT, 14), f"Is a keypoint within {WRONG} of its box?", _INK, font)
    summary = (
        f"{calibration.keypoints} keypoints   AUROC of wrong {_said(calibration.auroc)}   ECE {_said(calibration.ece)}"
    )
    draw.text((_LEFT, 42), summary, _FAINT, small)
    floor = _TOP + _PLOT
    for tick in range(6):
        share = tick / 5
        y, x = floor - share * _PLOT, _LEFT + share * _PLOT
        draw.line((_LEFT, y, _LEFT + _PLOT, y), _GRID)
        draw.text((_LEFT - 8, y), f"{share:.1f}", _INK, small, anchor="rm")
        draw.text((x, floor + _GAP + _HISTOGRAM + 8), f"{share:.1f}", _INK, small, anchor="ma")
    _draw_bins(draw, calibration, floor)
    draw.line((_LEFT, floor, _LEFT + _PLOT, _TOP), _INK, 2)
    draw.rectangle((_LEFT, _TOP, _LEFT + _PLOT, floor), outline=_FAINT)
    _draw_histogram(draw, calibration, floor + _GAP)
    draw.text((_LEFT + _PLOT / 2, height - 14), "score", _INK, font, anchor="mb")
    _draw_upwards(page, "share right", (20, _TOP + _PLOT // 2))
    _draw_upwards(page, "keypoints", (20, floor + _GAP + _HISTOGRAM // 2))
    return np.array(page)


def _draw_bins(draw: ImageDraw.ImageDraw, calibration: Calibration, floor: int) -> None:
    """Draws a bar for the share of correct keypoints, and its gap to the mean score."""
    for one in calibration.bins:
        if one.count == 0:
            continue
        left, right = _LEFT + one.low * _PLOT + 1, _LEFT + one.high * _PLOT - 1
        draw.rectangle((left, floor - one.right * _PLOT, right, floor), _BAR)
        gap = sorted((floor - one.right * _PLOT, floor - one.score * _PLOT))
        draw.rectangle((left, gap[0], right, gap[1]), outline=_MISSING, width=3)


def _draw_histogram(draw: ImageDraw.ImageDraw, calibration: Calibration, top: int) -> None:
    largest = max((one.count for one in calibration.bins), default=0)
    floor = top + _HISTOGRAM
    for one in calibration.bins:
        if one.count:
            height = _HISTOGRAM * one.count / largest
            left, right = _LEFT + one.low * _PLOT + 1, _LEFT + one.high * _PLOT - 1
            draw.rectangle((left, floor - height, right, floor), _FAINT)
    draw.rectangle((_LEFT, top, _LEFT + _PLOT, floor), outline=_FAINT)
    draw.text((_LEFT - 8, top), f"{largest}", _INK, load_font(14), anchor="rt")


def _draw_upwards(page: Image.Image, text: str, centre: tuple[int, int]) -> None:
    """Draws a text rotated to read from bottom to top."""
    font = load_font(17)
    label = Image.new("RGB", (round(font.getlength(text)) + 4, 24), _BACKGROUND)
    ImageDraw.Draw(label).text((2, 12), text, _INK, font, anchor="lm")
    turned = label.rotate(90, expand=True)
    page.paste(turned, (centre[0] - turned.width // 2, centre[1] - turned.height // 2))


def _said(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
