"""A page of small pictures of a data set, with keypoints and skeletons, to see what is in it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from cape.data.dataset import AnnotatedObject, Category
from cape.drawing.fonts import load_font
from cape.drawing.strokes import Pixels, Style, draw_edge, draw_marker, keypoint_colour

_BACKGROUND = (28, 28, 32)
_INK = (240, 240, 240)
_GAP = 6
_TITLE = 20
"""Height of a category's name, in pixels."""


def contact_sheet(
    rows: Sequence[tuple[Category, Sequence[AnnotatedObject]]], *, cell: int = 160, columns: int | None = None
) -> Pixels:
    """Draws categories side by side, each under its name: objects as they are, beside them with their pose.

    Args:
        rows: categories and the objects to show of each; at least one.
        cell: side of a picture, in pixels.
        columns: how many categories stand side by side; None for a page about as wide as it is high.

    Returns:
        RGB, uint8.

    Raises:
        ValueError: there is nothing to show.
    """
    if not rows or not any(objects for _, objects in rows):
        raise ValueError("rows: at least one category with an object")
    widest = max(len(objects) for _, objects in rows)
    block = widest * cell + _GAP
    if columns is None:
        columns = max(1, round((len(rows) * (cell + _TITLE + _GAP) / block) ** 0.5))
    lines = -(-len(rows) // columns)
    page = Image.new("RGB", (columns * block + _GAP, lines * (cell + _TITLE + _GAP) + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(page)
    for number, (category, objects) in enumerate(rows):
        left, top = number % columns * block + _GAP, number // columns * (cell + _TITLE + _GAP) + _GAP
        label = f"{category.name}  ({category.super_category}, {len(category.keypoints)} keypoints)"
        draw.text((left, top + _TITLE / 2), label, _INK, load_font(13), anchor="lm")
        for index, annotated in enumerate(objects):
            # Every other picture is left bare: a person should recognise it without help.
            picture = _thumbnail(annotated, category, cell, pose=index % 2 == 0)
            page.paste(Image.fromarray(picture), (left + index * cell, top + _TITLE))
    return np.array(page)


def _thumbnail(annotated: AnnotatedObject, category: Category, cell: int, *, pose: bool) -> Pixels:
    height, width = annotated.image.shape[:2]
    scale = cell / max(height, width)
    size = (round(width * scale), round(height * scale))
    picture = np.zeros((cell, cell, 3), dtype=np.uint8)
    picture[: size[1], : size[0]] = cv2.resize(annotated.image, size, interpolation=cv2.INTER_AREA)
    if not pose:
        return picture
    points = annotated.keypoints.astype(np.float64) * scale
    style = Style(radius=2.2, line=1, font=7)
    for start, end in category.skeleton:
        if annotated.visible[start] and annotated.visible[end]:
            draw_edge(picture, points[start], points[end], (start, end), 1.0, style)
    for index in np.flatnonzero(annotated.visible).tolist():
        draw_marker(picture, points[index], keypoint_colour(index), 1.0, style)
    return picture
