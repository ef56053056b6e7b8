"""Label Studio's labelling configurations and results → supports, and poses → results."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cape.client import Box, ImageSource, KeypointDefinition, PoseInstance, SupportDefinition, SupportExample


class LabelConfigError(ValueError):
    """A labelling configuration without keypoints; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What a labelling configuration asks for.

    Attributes:
        image_field: field of a task's data that holds the image: "image" for `value="$image"`.
        image_name: name of the Image tag.
        keypoints_name: name of the KeyPointLabels tag.
        keypoints: the labels, in order. A label's `hint` is its description.
        rectangle_name: name of the RectangleLabels tag; empty where there is none.
        category: first label of RectangleLabels; empty where there is none.
    """

    image_field: str
    image_name: str
    keypoints_name: str
    keypoints: tuple[KeypointDefinition, ...]
    rectangle_name: str = ""
    category: str = ""


def read_label_config(text: str) -> LabelConfig:
    """Reads a labelling configuration.

    Raises:
        LabelConfigError: it is not XML, or has no KeyPointLabels on an Image.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise LabelConfigError("the labelling configuration has a document type; none is read")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise LabelConfigError(f"the labelling configuration is not XML: {error}") from None
    keypoints = root.find(".//KeyPointLabels")
    if keypoints is None:
        raise LabelConfigError("the labelling configuration has no KeyPointLabels")
    image_name = keypoints.get("toName", "")
    image = next((one for one in root.iter("Image") if one.get("name") == image_name), None)
    if image is None:
        raise LabelConfigError(f"KeyPointLabels refers to an Image {image_name!r}, which is not there")
    labels = tuple(
        KeypointDefinition(label.get("value", ""), label.get("hint", ""))
        for label in keypoints.iter("Label")
        if label.get("value")
    )
    if not labels:
        raise LabelConfigError("KeyPointLabels has no labels")
    rectangle = next((one for one in root.iter("RectangleLabels") if one.get("toName") == image_name), None)
    category = "" if rectangle is None else next((one.get("value", "") for one in rectangle.iter("Label")), "")
    return LabelConfig(
        image.get("value", "$image").removeprefix("$"),
        image_name,
        keypoints.get("name", ""),
        labels,
        "" if rectangle is None else rectangle.get("name", ""),
        category,
    )


def read_example(config: LabelConfig, results: Sequence[dict[str, Any]]) -> SupportExample | None:
    """The first object of an annotation, without its image.

    Label Studio gives positions in per cent of the image. Where rectangles are drawn, the keypoints of an object are
    those inside its rectangle; of each label the first counts.

    Returns:
        None where the annotation has no keypoint of the configuration.
    """
    boxes = [_box(one) for one in results if one.get("type") == "rectanglelabels" and "value" in one]
    order = {keypoint.name: index for index, keypoint in enumerate(config.keypoints)}
    box = boxes[0] if boxes else None
    positions = np.zeros((len(order), 2), dtype=np.float32)
    visible = np.zeros(len(order), dtype=np.bool_)
    for one in results:
        if one.get("type") != "keypointlabels":
            continue
        value, (width, height) = one["value"], _size(one)
        x, y = value["x"] / 100 * width, value["y"] / 100 * height
        if box is not None and not (box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height):
            continue
        for label in value.get("keypointlabels", ()):
            index = order.get(label)
            if index is not None and not visible[index]:
                # A point on the last column or row belongs to the image.
                positions[index] = min(x, width - 1e-3), min(y, height - 1e-3)
                visible[index] = True
    return SupportExample(None, positions, visible, box) if visible.any() else None


def drawn_box(results: Sequence[dict[str, Any]]) -> Box | None:
    """The last rectangle that was drawn: the object that an interactive request is about."""
    boxes = [_box(one) for one in results if one.get("type") in ("rectanglelabels", "rectangle") and "value" in one]
    return boxes[-1] if boxes else None


def make_support(config: LabelConfig, examples: Sequence[tuple[ImageSource, SupportExample]]) -> SupportDefinition:
    """The support that a project has: its labels, and its annotated images."""
    shots = tuple(SupportExample(image, one.keypoints, one.visible, one.box) for image, one in examples)
    return SupportDefinition(config.category or "object", config.keypoints, examples=shots)


def prediction(
    config: LabelConfig, instances: Sequence[PoseInstance], size: tuple[int, int], version: str, threshold: float
) -> dict[str, Any]:
    """Poses as a Label Studio prediction.

    Args:
        config: of the project.
        instances: with keypoints as fractions of the image.
        size: width and height of the image in pixels.
        version: of model and support.
        threshold: keypoints with lower scores are left out.
    """
    width, height = size
    result: list[dict[str, Any]] = []
    common = {"original_width": width, "original_height": height, "image_rotation": 0, "to_name": config.image_name}
    for number, instance in enumerate(instances):
        if config.rectangle_name and config.category:
            box = instance.box
            value = {
                "x": 100 * box.x / width, "y": 100 * box.y / height, "rotation": 0,
                "width": 100 * box.width / width, "height": 100 * box.height / height,
                "rectanglelabels": [config.category],
            }  # fmt: skip
            result.append(
                {"id": f"o{number}", "type": "rectanglelabels", "from_name": config.rectangle_name, "value": value}
                | common
            )
        for index, name in enumerate(instance.names):
            if not instance.located[index] or instance.scores[index] < threshold:
                continue
            x, y = (float(part) for part in instance.keypoints[index])
            value = {"x": 100 * x, "y": 100 * y, "width": 0.6, "keypointlabels": [name]}
            score = float(instance.scores[index])
            result.append(
                {
                    "id": f"o{number}k{index}", "type": "keypointlabels", "from_name": config.keypoints_name,
                    "value": value, "score": score,
                }
                | common
            )  # fmt: skip
    scores = [one["score"] for one in result if "score" in one]
    return {"result": result, "score": sum(scores) / len(scores) if scores else 0.0, "model_version": version}


def _size(result: dict[str, Any]) -> tuple[float, float]:
    return float(result.get("original_width") or 0), float(result.get("original_height") or 0)


def _box(result: dict[str, Any]) -> Box:
    """A rectangle in pixels; a turned one as the upright rectangle around it."""
    value, (width, height) = result["value"], _size(result)
    x, y = value["x"] / 100 * width, value["y"] / 100 * height
    w, h = value["width"] / 100 * width, value["height"] / 100 * height
    # Label Studio turns a rectangle around its top left corner.
    angle = np.radians(value.get("rotation") or 0)
    corners = np.array([[0, 0], [w, 0], [0, h], [w, h]]) @ np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )
    low, high = corners.min(axis=0), corners.max(axis=0)
    return Box(float(x + low[0]), float(y + low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
