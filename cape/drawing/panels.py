"""Pictures side by side, with titles and a banner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from cape.drawing.fonts import load_font
from cape.drawing.strokes import Pixels

_BACKGROUND = (28, 28, 32)
_INK = (240, 240, 240)
_BANNER = (255, 193, 7)
_BANNER_INK = (30, 20, 0)


def side_by_side(panels: Sequence[tuple[str, Pixels]], *, banner: str | None = None) -> Pixels:
    """Arranges pictures in a row, scaled to the same height, each with a title above.

    Args:
        panels: titles and RGB pictures, uint8 [H, W, 3]; at least one.
        banner: a warning across the top; None for none.

    Returns:
        RGB, uint8.

    Raises:
        ValueError: there are no panels.
    """
    if not panels:
        raise ValueError("panels: at least one picture")
    height = min(max(picture.shape[0] for _, picture in panels), 960)
    gap = max(8, height // 60)
    font = load_font(max(10, height // 38))
    title_height = round(font.size * 2.0)
    scaled = [(title, _to_height(picture, height)) for title, picture in panels]
    widths = [max(picture.shape[1], round(font.getlength(title)) + gap) for title, picture in scaled]
    total_width = sum(widths) + gap * (len(panels) + 1)

    lines, banner_font = _banner_lines(banner, total_width - 2 * gap, round(font.size * 1.15))
    banner_height = round(banner_font.size * (1.35 * len(lines) + 0.7)) if lines else 0
    page = Image.new("RGB", (total_width, banner_height + title_height + height + gap), _BACKGROUND)
    draw = ImageDraw.Draw(page)
    if lines:
        draw.rectangle((0, 0, total_width, banner_height), fill=_BANNER)
        for row, text in enumerate(lines):
            y = banner_font.size * (0.35 + 1.35 * row)
            draw.text((total_width / 2, y), text, _BANNER_INK, banner_font, anchor="ma")
    left = gap
    for (title, picture), width in zip(scaled, widths, strict=True):
        draw.text((left, banner_height + title_height / 2), title, _INK, font, anchor="lm")
        page.paste(Image.fromarray(picture), (left, banner_height + title_height))
        left += width + gap
    return np.array(page)


def _to_height(picture: Pixels, height: int) -> Pixels:
    if picture.shape[0] == height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def _banner_lines(banner: str | None, width: float, size: int) -> tuple[list[str], FreeTypeFont]:
    """Draws the banner, with line breaks where it is wider than the page."""
    font = load_font(size)
    lines: list[str] = []
    for word in (banner or "").split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines, font
