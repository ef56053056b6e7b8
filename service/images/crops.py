"""Boxes of a request → the square crops that the models see."""

from __future__ import annotations

from collections.abc import Sequence

from cape.geometry import Crop
from cape.manifest import Manifest
from cape.v1 import image_pb2
from service.errors import InvalidFieldError
from service.images.reading import OpenedImage


def crop_around(box: image_pb2.BoundingBox | None, image: OpenedImage, manifest: Manifest) -> Crop:
    """The crop of a box of an image, or of the whole image.

    Args:
        box: checked by `check_box`; None for the whole image.
        image: gives its size.

    Raises:
        InvalidFieldError: field '', a box outside the image.
    """
    height, width = image.height, image.width
    if box is None:
        box = image_pb2.BoundingBox(x=0, y=0, width=width, height=height)
    elif box.x >= width or box.y >= height or box.x + box.width <= 0 or box.y + box.height <= 0:
        raise InvalidFieldError("", f"outside the image, which is {width} × {height} pixels")
    return Crop.around(box.x, box.y, box.width, box.height, size=manifest.image_size, padding=manifest.box_padding)


def query_crops(boxes: Sequence[image_pb2.BoundingBox], image: OpenedImage, manifest: Manifest) -> list[Crop]:
    """The crops of a query's boxes, in their order; one of the whole image where there are none.

    Raises:
        InvalidFieldError: 'boxes[i]', relative to the request.
    """
    crops = []
    for index, box in enumerate(boxes):
        try:
            crops.append(crop_around(box, image, manifest))
        except InvalidFieldError as error:
            raise error.within(f"boxes[{index}]") from None
    return crops or [crop_around(None, image, manifest)]
