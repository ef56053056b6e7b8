"""The font of all labels: Pillow's own scalable font."""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

STROKE = 2
"""Width of the halo that `text_size` leaves room for, in pixels."""


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Returns the font at a size in pixels."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType: it has no scalable font")
    return font


def text_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[float, float]:
    """Width and height of a text with its halo, in pixels. The height does not depend on the text."""
    width = font.getlength(text)
    _, top, _, bottom = font.getbbox("|g", stroke_width=STROKE)
    return width + 2 * STROKE, bottom - top
