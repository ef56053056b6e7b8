"""Validation of supports and boxes: every rule that needs no pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cape.manifest import Manifest
from cape.v1 import image_pb2, modality_pb2, support_pb2
from service.errors import InvalidFieldError
from service.images.reading import ImageLimits, check_image
from service.supports.modalities import KNOWN_MODALITIES

MAX_CATEGORY = 200
MAX_NAME = 200
MAX_DESCRIPTION = 1_000
MAX_EDGES = 10_000
"""Every ordered pair of 100 keypoints."""

MAX_BOX = 1_000_000.0
"""Pixels that a box may measure or lie away from the origin: beyond, single precision loses whole pixels."""


def check_support(support: support_pb2.Support, manifest: Manifest, limits: ImageLimits) -> None:
    """Checks everything of a support that can be checked without decoding its images.

    Raises:
        InvalidFieldError: field paths relative to the support, such as 'examples[0].keypoints[3].x'.
    """
    if len(support.category) > MAX_CATEGORY:
        raise InvalidFieldError("category", f"{len(support.category)} characters; at most {MAX_CATEGORY}")
    _check_keypoints(support.keypoints, manifest.max_keypoints)
    _check_skeleton(support.skeleton, len(support.keypoints))
    if len(support.examples) > manifest.max_shots:
        raise InvalidFieldError("examples", f"{len(support.examples)}; at most {manifest.max_shots}")
    for index, example in enumerate(support.examples):
        try:
            _check_example(example, len(support.keypoints), limits)
        except InvalidFieldError as error:
            raise error.within(f"examples[{index}]") from None
    for index, modality in enumerate(support.modalities):
        if modality not in KNOWN_MODALITIES:
            raise InvalidFieldError(f"modalities[{index}]", f"{modality} is not a modality")
        if modality == modality_pb2.MODALITY_IMAGE and not support.examples:
            raise InvalidFieldError(f"modalities[{index}]", "MODALITY_IMAGE, but the support has no examples")


def check_box(box: image_pb2.BoundingBox) -> None:
    """Checks a box by itself.

    Raises:
        InvalidFieldError: a field of the box.
    """
    for field in ("x", "y", "width", "height"):
        value = getattr(box, field)
        if not math.isfinite(value) or abs(value) > MAX_BOX:
            raise InvalidFieldError(field, f"{value}; must be a number of at most {MAX_BOX:,.0f} pixels")
    for field in ("width", "height"):
        if getattr(box, field) <= 0:
            raise InvalidFieldError(field, f"{getattr(box, field)}; must be more than 0")


def _check_keypoints(keypoints: Sequence[support_pb2.KeypointDefinition], most: int) -> None:
    if not 1 <= len(keypoints) <= most:
        raise InvalidFieldError("keypoints", f"{len(keypoints)}; between 1 and {most} are needed")
    seen: dict[str, int] = {}
    for index, keypoint in enumerate(keypoints):
        name = keypoint.name.strip()
        if not name:
            raise InvalidFieldError(f"keypoints[{index}].name", "empty")
        if len(keypoint.name) > MAX_NAME:
            raise InvalidFieldError(f"keypoints[{index}].name", f"{len(keypoint.name)} characters; at most {MAX_NAME}")
        if name in seen:
            raise InvalidFieldError(f"keypoints[{index}].name", f"the same as keypoints[{seen[name]}].name")
        seen[name] = index
        if len(keypoint.description) > MAX_DESCRIPTION:
            raise InvalidFieldError(
                f"keypoints[{index}].description",
                f"{len(keypoint.description)} characters; at most {MAX_DESCRIPTION}",
            )


def _check_skeleton(skeleton: Sequence[support_pb2.SkeletonEdge], keypoints: int) -> None:
    if len(skeleton) > MAX_EDGES:
        raise InvalidFieldError("skeleton", f"{len(skeleton)} edges; at most {MAX_EDGES}")
    for index, edge in enumerate(skeleton):
        for field in ("start", "end"):
            value = getattr(edge, field)
            if not 0 <= value < keypoints:
                raise InvalidFieldError(
                    f"skeleton[{index}].{field}", f"{value}; there are keypoints 0 to {keypoints - 1}"
                )
        if edge.start == edge.end:
            raise InvalidFieldError(f"skeleton[{index}]", f"joins keypoint {edge.start} to itself")


def _check_example(example: support_pb2.SupportExample, keypoints: int, limits: ImageLimits) -> None:
    try:
        check_image(example.image, limits)
    except InvalidFieldError as error:
        raise error.within("image") from None
    if example.HasField("box"):
        try:
            check_box(example.box)
        except InvalidFieldError as error:
            raise error.within("box") from None
    if len(example.keypoints) != keypoints:
        raise InvalidFieldError("keypoints", f"{len(example.keypoints)}; the support defines {keypoints}")
    for index, keypoint in enumerate(example.keypoints):
        for field in ("x", "y"):
            value = getattr(keypoint, field)
            if not keypoint.hidden and not math.isfinite(value):
                raise InvalidFieldError(f"keypoints[{index}].{field}", f"{value}; must be a number")
    if all(keypoint.hidden for keypoint in example.keypoints):
        raise InvalidFieldError("keypoints", "all are hidden; at least one must be seen")
