"""The font of every label: the scalable one that comes with Pillow."""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

STROKE = 2
"""Width of the halo that `text_size` leaves room for, in pixels."""


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The font in a size in pixels."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType: it has no font that scales")
    return font


def text_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[float, float]:
    """Width and height of the room that a text takes with its halo; the height is that of any text."""
    width = font.getlength(text)
    _, top, _, bottom = font.getbbox("|g", stroke_width=STROKE)
    return width + 2 * STROKE, bottom - top
