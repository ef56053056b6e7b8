"""Support images → the square crops that the models see."""

from __future__ import annotations

import numpy as np

from cape.manifest import Manifest
from cape.v1 import modality_pb2, support_pb2
from service.errors import InvalidFieldError
from service.images.crops import crop_around
from service.images.reading import ImageLimits, OpenedImage, open_image
from service.supports.outline import SupportOutline
from service.supports.prepared_support import PreparedSupport, Shot


def prepare_support(
    support: support_pb2.Support, definition: SupportOutline, manifest: Manifest, limits: ImageLimits
) -> PreparedSupport:
    """Decodes and crops the examples of a support. Takes CPU time: call it in a thread.

    Every example is checked, also where the support's modalities keep its image from being used.

    Args:
        support: checked by `check_support`, with its images.
        definition: taken from the same support.

    Raises:
        InvalidFieldError: relative to the support: an undecodable image, a keypoint or box outside.
    """
    shots = []
    for index, example in enumerate(support.examples):
        try:
            shots.append(_shot(example, manifest, limits))
        except InvalidFieldError as error:
            raise error.within(f"examples[{index}]") from None
    return PreparedSupport(
        name=definition.name,
        texts=definition.texts if modality_pb2.MODALITY_TEXT in definition.modalities else (),
        edges=definition.edges,
        shots=tuple(shots) if modality_pb2.MODALITY_IMAGE in definition.modalities else (),
        keypoints=len(definition.keypoint_names),
        owner=definition.owner,
    )


def _shot(example: support_pb2.SupportExample, manifest: Manifest, limits: ImageLimits) -> Shot:
    """Decodes and crops one example."""
    try:
        image = open_image(example.image, limits)
    except InvalidFieldError as error:
        raise error.within("image") from None
    try:
        return _cropped(example, image, manifest)
    finally:
        image.close()


def _cropped(example: support_pb2.SupportExample, image: OpenedImage, manifest: Manifest) -> Shot:
    height, width = image.height, image.width
    for index, keypoint in enumerate(example.keypoints):
        for field, value, end in (("x", keypoint.x, width), ("y", keypoint.y, height)):
            if not keypoint.hidden and not 0 <= value <= end:
                raise InvalidFieldError(
                    f"keypoints[{index}].{field}",
                    f"{value:g}; outside the image, which is {width} × {height} pixels",
                )
    try:
        crop = crop_around(example.box if example.HasField("box") else None, image, manifest)
    except InvalidFieldError as error:
        raise error.within("box") from None
    try:
        photograph = image.decode([crop])
    except InvalidFieldError as error:
        raise error.within("image") from None
    visible = np.array([not keypoint.hidden for keypoint in example.keypoints], dtype=np.bool_)
    points = np.array([(keypoint.x, keypoint.y) for keypoint in example.keypoints], dtype=np.float64)
    points[~visible] = crop.left, crop.top
    return Shot(crop=photograph.extract(crop), keypoints=crop.to_crop(points), visible=visible)
