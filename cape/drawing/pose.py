"""Draws keypoints, names, skeleton and scores on an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from cape.drawing.fonts import load_font, text_size
from cape.drawing.labels import Placement, place_labels
from cape.drawing.strokes import (
    HALO,
    LONGER_SIDE,
    Pixels,
    Style,
    draw_box,
    draw_edge,
    draw_marker,
    keypoint_colour,
)
from cape.support import Box

_MAX_ENLARGEMENT = 16.0

_MAX_LABELS = 24
"""With more keypoints than this, markers are numbered and a legend lists the names."""


def draw_pose(
    image: Pixels,
    keypoints: npt.ArrayLike,
    names: Sequence[str],
    *,
    skeleton: Sequence[tuple[int, int]] = (),
    scores: npt.ArrayLike | None = None,
    located: npt.ArrayLike | None = None,
    box: Box | None = None,
    focus: Box | None = None,
) -> Pixels:
    """Draws keypoints on an image, enlarged if the labels need it.

    Names are drawn beside the keypoints if they fit; otherwise the markers are numbered and a legend is drawn beside
    the image. Keypoints with a low score are drawn faint.

    Args:
        image: RGB, uint8 [H, W, 3].
        keypoints: [K, 2], in pixels of the image; may lie outside it.
        names: K names.
        skeleton: pairs of joined keypoints, as indices from 0.
        scores: [K], 0–1; None to draw no scores.
        located: bool [K], False to omit a keypoint; None for all.
        box: drawn as a thin frame.
        focus: the part of the image to show; None for all of it.

    Returns:
        RGB, uint8.

    Raises:
        ValueError: the image is not RGB uint8, or the numbers of names and keypoints differ.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: RGB, uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    points = np.asarray(keypoints, dtype=np.float64).reshape(-1, 2)
    if len(points) != len(names):
        raise ValueError(f"names: {len(names)} for {len(points)} keypoints")
    strength = np.full(len(points), np.nan) if scores is None else np.asarray(scores, dtype=np.float64)
    shown = np.ones(len(points), dtype=np.bool_) if located is None else np.array(located, dtype=np.bool_)
    shown &= np.isfinite(points).all(axis=1)

    canvas, scale, origin = _enlarge(image, focus)
    height, width = canvas.shape[:2]
    style = Style.of(width, height)
    points = (np.where(shown[:, None], points, 0.0) - origin) * scale
    alphas = np.where(np.isnan(strength), 1.0, 0.35 + 0.65 * np.clip(strength / 0.5, 0, 1))
    if box is not None:
        draw_box(
            canvas,
            (np.array([box.x, box.y]) - origin) * scale,
            np.array([box.width, box.height]) * scale,
            style,
        )
    for start, end in skeleton:
        if shown[start] and shown[end]:
            draw_edge(canvas, points[start], points[end], (start, end), min(alphas[start], alphas[end]), style)
    visible = [index for index in range(len(points)) if shown[index]]
    for index in visible:
        draw_marker(canvas, points[index], keypoint_colour(index), alphas[index], style)

    texts = [names[i] if np.isnan(strength[i]) else f"{names[i]} {strength[i]:.2f}" for i in range(len(names))]
    font = load_font(style.font)
    inside = [index for index in visible if 0 <= points[index][0] <= width and 0 <= points[index][1] <= height]
    placement = _place(points, inside, texts, font, canvas, style)
    if len(inside) <= _MAX_LABELS and placement.overlap < 0.02:
        return _note_outside(
            _draw_labels(canvas, points, inside, texts, placement, font, style), len(visible) - len(inside), style
        )
    numbers = [str(index + 1) for index in range(len(names))]
    small = load_font(max(7, round(style.font * 0.8)))
    numbered = _place(points, inside, numbers, small, canvas, style)
    canvas = _draw_labels(canvas, points, inside, numbers, numbered, small, style)
    canvas = _note_outside(canvas, len(visible) - len(inside), style)
    return np.concatenate([canvas, _legend(texts, shown, height, style)], axis=1)


def _enlarge(image: Pixels, focus: Box | None) -> tuple[Pixels, float, npt.NDArray[np.float64]]:
    """Returns the part to show, enlarged if small, its scale, and its top left corner in the image."""
    height, width = image.shape[:2]
    left = top = 0
    if focus is not None:
        left, top = max(0, int(focus.x)), max(0, int(focus.y))
        right, bottom = min(width, round(focus.x + focus.width)), min(height, round(focus.y + focus.height))
        if right > left and bottom > top:
            image = image[top:bottom, left:right]
        else:
            left = top = 0
    height, width = image.shape[:2]
    scale = min(max(1.0, LONGER_SIDE / max(height, width)), _MAX_ENLARGEMENT)
    if scale > 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    return np.array(image), scale, np.array([left, top], dtype=np.float64)


def _place(
    points: npt.NDArray[np.float64],
    indices: Sequence[int],
    texts: Sequence[str],
    font: FreeTypeFont,
    canvas: Pixels,
    style: Style,
) -> Placement:
    sizes = np.array([text_size(texts[index], font) for index in indices], dtype=np.float64).reshape(-1, 2)
    height, width = canvas.shape[:2]
    return place_labels(points[list(indices)], sizes, (width, height), style.radius * 1.5)


def _draw_labels(
    canvas: Pixels,
    points: npt.NDArray[np.float64],
    indices: Sequence[int],
    texts: Sequence[str],
    placement: Placement,
    font: FreeTypeFont,
    style: Style,
) -> Pixels:
    sizes = [text_size(texts[index], font) for index in indices]
    for row, index in enumerate(indices):
        if placement.distances[row] > style.radius * 4:
            corner, size = placement.corners[row], np.array(sizes[row])
            nearest = np.clip(points[index], corner, corner + size)
            draw_edge(canvas, points[index], nearest, (index, index), 0.8, Style(0, 1, 0))
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for row, index in enumerate(indices):
        x, y = placement.corners[row]
        stroke = max(1, round(style.font / 8))
        # Lightened towards white for legibility, but still close to the marker's colour.
        red, green, blue = (round(255 - (255 - part) * 0.25) for part in keypoint_colour(index))
        draw.text((x + 2, y), texts[index], (red, green, blue), font, stroke_width=stroke, stroke_fill=HALO)
    return np.array(picture)


def _note_outside(canvas: Pixels, count: int, style: Style) -> Pixels:
    """Writes the number of keypoints outside the picture into a corner."""
    if count == 0:
        return canvas
    picture = Image.fromarray(canvas)
    text = f"{count} keypoint{'s' if count > 1 else ''} outside the picture"
    corner = (style.font * 0.5, picture.height - style.font * 0.5)
    stroke = max(1, round(style.font / 8))
    ImageDraw.Draw(picture).text(
        corner, text, (255, 255, 255), load_font(style.font), anchor="ls", stroke_width=stroke, stroke_fill=HALO
    )
    return np.array(picture)


def _legend(texts: Sequence[str], shown: npt.NDArray[np.bool_], height: int, style: Style) -> Pixels:
    """Draws the legend [height, W, 3]: number, colour and text of each keypoint, in as many columns as needed."""
    size = min(style.font, max(7, height // 12))
    font = load_font(size)
    line = round(size * 1.5)
    rows = max(1, (height - line) // line)
    columns = -(-len(texts) // rows)
    entries = [f"{index + 1}  {text}" for index, text in enumerate(texts)]
    column_width = round(max(font.getlength(entry) for entry in entries) + 3.5 * size)
    picture = Image.new("RGB", (column_width * columns, height), (28, 28, 32))
    draw = ImageDraw.Draw(picture)
    for index, entry in enumerate(entries):
        left = index // rows * column_width + size
        top = line // 2 + index % rows * line
        colour = keypoint_colour(index) if shown[index] else (70, 70, 76)
        draw.ellipse((left, top + size * 0.25, left + size * 0.8, top + size * 1.05), colour, (235, 235, 235))
        draw.text((left + size * 1.5, top), entry, (240, 240, 240) if shown[index] else (130, 130, 136), font)
    return np.array(picture)
