"""Layout of the figure: support and query on top, one column of maps per keypoint below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from cape.drawing import draw_pose, keypoint_colour, read_image, side_by_side
from cape.drawing.fonts import load_font
from cape.drawing.strokes import Pixels
from cape.explanation.heatmaps import draw_cross, draw_ring, heat_colours, heat_panel
from cape.predictor import PathwayEvidence, Prediction
from cape.support import Box, SupportDefinition

CELLS = (200, 400)
"""Smallest and largest side of a map, in pixels; between them, as wide as the panels above allow."""

GAP = 8
FONT = 17
LABEL_WIDTH = 190
"""Width of the row labels left of the maps, in pixels."""

MAX_SUPPORT_PANELS = 3
"""Maximum number of support images shown; titles give the total."""

_TEXT_HEIGHT = 720
"""Height of the panel of texts, in pixels."""

_EMPTY = (40, 40, 46)
_BACKGROUND = (28, 28, 32)
_INK = (240, 240, 240)
_FAINT = (165, 165, 172)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of maps: titles, values [K, H, W], and the pathway they come from."""

    title: str
    subtitle: str
    values: npt.NDArray[np.float32]
    pathway: PathwayEvidence


def explanation_figure(
    query: Pixels,
    support: SupportDefinition,
    prediction: Prediction,
    keypoints: Sequence[int],
    *,
    title: str,
    banner: str | None = None,
) -> Pixels:
    """Draws a figure that explains a prediction.

    On top: the support images with keypoints and skeleton (if images were used), and the query with the prediction.
    Below, for each keypoint and pathway: the similarity map over the crop, and the cross-attention of the last decoder
    layer, averaged over its heads. A cross marks the initial proposal, a ring the final keypoint.

    Args:
        query: the upright image, RGB, uint8 [H, W, 3].
        support: the support of the prediction.
        prediction: result of a `Predictor`.
        keypoints: indices of the keypoints to show maps of; at least one.
        title: title of the query's panel.
        banner: a warning across the top; None for none.

    Returns:
        RGB, uint8.

    Raises:
        ValueError: no keypoints are given.
        OSError: a support image cannot be read.
    """
    if not keypoints:
        raise ValueError("keypoints: at least one")
    panels = _support_panels(support, prediction)
    panels.append((title, _prediction_picture(query, support, prediction)))
    top = side_by_side(panels, banner=banner)
    crop = prediction.crop.extract(query)
    maps = _map_grid(crop, support, prediction, keypoints, top.shape[1])
    # Repeats the right edge, so that a banner spans the whole width.
    top = np.pad(top, ((0, 0), (0, maps.shape[1] - top.shape[1]), (0, 0)), mode="edge")
    return np.concatenate([top, maps])


def _support_panels(support: SupportDefinition, prediction: Prediction) -> list[tuple[str, Pixels]]:
    used = {modality for pathway in prediction.pathways for modality in pathway.modalities}
    if "image" not in used:
        return [(f"support: {support.category}, texts only", _text_panel(support))]
    shown = support.examples[:MAX_SUPPORT_PANELS]
    texts = "image and text" if "text" in used else "image only"
    panels = []
    for index, example in enumerate(shown):
        assert example.image is not None, "the predictor read it"
        picture = draw_pose(
            read_image(example.image),
            example.keypoints,
            support.names,
            skeleton=support.skeleton,
            located=example.visible,
            box=example.box,
            focus=example.box,
        )
        shot = f", shot {index + 1} of {len(support.examples)}" if len(support.examples) > 1 else f", {texts}"
        panels.append((f"support: {support.category}{shot}", picture))
    return panels


def _text_panel(support: SupportDefinition) -> Pixels:
    """Draws the keypoints' texts, for supports without images."""
    lines = [keypoint.description.strip() or keypoint.name for keypoint in support.keypoints]
    step = min(64.0, (_TEXT_HEIGHT - 40) / len(lines))
    font = load_font(max(8, round(step * 0.42)))
    radius = step * 0.16
    width = round(max(font.getlength(line) for line in lines) + 3 * step)
    picture = Image.new("RGB", (max(width, _TEXT_HEIGHT // 2), _TEXT_HEIGHT), _EMPTY)
    draw = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        y = 20 + (index + 0.5) * step
        draw.ellipse((step - radius, y - radius, step + radius, y + radius), keypoint_colour(index), _INK)
        draw.text((step * 1.5, y), line, _INK, font, anchor="lm")
    return np.array(picture)


def _prediction_picture(query: Pixels, support: SupportDefinition, prediction: Prediction) -> Pixels:
    height, width = query.shape[:2]
    box, crop = prediction.box, prediction.crop
    whole = (box.x, box.y, box.width, box.height) == (0, 0, width, height)
    return draw_pose(
        query,
        prediction.keypoints,
        support.names,
        skeleton=support.skeleton,
        scores=prediction.scores,
        located=prediction.located,
        box=None if whole else box,
        # The model sees the square around the box, so every keypoint lies in it.
        focus=None if whole else Box(crop.left, crop.top, crop.side, crop.side),
    )


def _map_grid(
    crop: Pixels, support: SupportDefinition, prediction: Prediction, keypoints: Sequence[int], min_width: int
) -> Pixels:
    """Draws one column per keypoint, two rows per pathway and a legend; at least `min_width` wide."""
    rows = [row for pathway in prediction.pathways for row in _rows(pathway, len(prediction.pathways))]
    font, small = load_font(FONT), load_font(FONT - 3)
    header, legend = round(FONT * 3.2), round(FONT * 2.4)
    side = min(max((min_width - LABEL_WIDTH - GAP) // len(keypoints) - GAP, CELLS[0]), CELLS[1])
    width = max(min_width, LABEL_WIDTH + len(keypoints) * (side + GAP) + GAP)
    page = Image.new("RGB", (width, header + len(rows) * (side + GAP) + legend), _BACKGROUND)
    draw = ImageDraw.Draw(page)
    for column, keypoint in enumerate(keypoints):
        left = LABEL_WIDTH + column * (side + GAP)
        name = _shortened(support.names[keypoint], font, side - 28)
        score = f"score {prediction.scores[keypoint]:.2f}" if prediction.located[keypoint] else "not located"
        draw.ellipse((left, header * 0.18, left + 14, header * 0.18 + 14), keypoint_colour(keypoint), _INK)
        draw.text((left + 22, header * 0.3), name, _INK, font, anchor="lm")
        draw.text((left + 22, header * 0.7), score, _FAINT, small, anchor="lm")
    for index, row in enumerate(rows):
        top = header + index * (side + GAP)
        draw.text((GAP, top + side / 2 - FONT), row.title, _INK, font, anchor="lm")
        draw.multiline_text((GAP, top + side / 2 + 4), row.subtitle, _FAINT, small, spacing=4)
        for column, keypoint in enumerate(keypoints):
            panel = Image.fromarray(_cell(crop, row, keypoint, side, small))
            page.paste(panel, (LABEL_WIDTH + column * (side + GAP), top))
    return _with_legend(np.array(page), legend, small)


def _rows(pathway: PathwayEvidence, pathways: int) -> list[_Row]:
    known = " and ".join(pathway.modalities)
    name = f"{known} pathway" if pathways > 1 else f"from {known}"
    return [
        _Row("similarity", name, pathway.similarity, pathway),
        _Row("cross-attention", f"{name}\nlast decoder layer,\nmean over heads", pathway.attention, pathway),
    ]


def _cell(crop: Pixels, row: _Row, keypoint: int, side: int, font: FreeTypeFont) -> Pixels:
    if row.pathway.located[keypoint]:
        return heat_panel(
            crop,
            row.values[keypoint],
            side,
            start=row.pathway.proposals[keypoint],
            end=row.pathway.keypoints[keypoint],
            colour=keypoint_colour(keypoint),
        )
    empty = Image.new("RGB", (side, side), _EMPTY)
    text = "not described\nby the support"
    ImageDraw.Draw(empty).multiline_text((side / 2, side / 2), text, _FAINT, font, anchor="mm", align="center")
    return np.array(empty)


def _with_legend(page: Pixels, height: int, font: FreeTypeFont) -> Pixels:
    """Draws the legend of heat, cross and ring into the last `height` pixel rows of a page."""
    middle = page.shape[0] - height / 2
    left, top = LABEL_WIDTH, round(middle) - 6
    page[top : top + 12, left : left + 120] = heat_colours(np.tile(np.linspace(0, 1, 120, dtype=np.float32), (12, 1)))
    texts: list[tuple[float, str]] = [(left + 130, "lowest to highest of each map")]
    cross = texts[-1][0] + font.getlength(texts[-1][1]) + 30
    draw_cross(page, (cross, middle), 6)
    texts.append((cross + 16, "where the decoder starts"))
    ring = texts[-1][0] + font.getlength(texts[-1][1]) + 30
    draw_ring(page, (ring, middle), 7, _INK)
    texts.append((ring + 16, "where the keypoint ends"))
    picture = Image.fromarray(page)
    draw = ImageDraw.Draw(picture)
    for x, text in texts:
        draw.text((x, middle), text, _FAINT, font, anchor="lm")
    return np.array(picture)


def _shortened(text: str, font: FreeTypeFont, width: float) -> str:
    """Shortens a text to a width, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
