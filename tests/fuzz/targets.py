"""What is fuzzed: each function takes any bytes, and raises where the program does what it must not."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cape.annotations import AnnotationError, read_support
from cape.coco import read_coco
from cape.v1 import image_pb2, pose_service_pb2, support_pb2
from service.errors import InvalidFieldError
from service.images.reading import ImageLimits, read_image

LIMITS = ImageLimits(max_bytes=2**20, max_pixels=1_000_000)

FOLDER = Path(tempfile.gettempdir())


def image(data: bytes) -> None:
    """An image of a request: upright RGB pixels, or an invalid field."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = read_image(image_pb2.Image(encoded=data), LIMITS)
        except InvalidFieldError as error:
            assert error.violations[0][0] == "encoded"
            return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= LIMITS.max_pixels


def annotation_json(data: bytes) -> None:
    """A support annotation file in JSON: a definition, or an error that names the file."""
    _annotation(data, ".json")


def annotation_yaml(data: bytes) -> None:
    """The same in YAML."""
    _annotation(data, ".yaml")


def coco(data: bytes) -> None:
    """A COCO keypoint file: what it holds, or an error that names it."""
    path = FOLDER / f"fuzz_{os.getpid()}.json"
    path.write_bytes(data)
    try:
        read_coco(path)
    except AnnotationError as error:
        assert path.name in str(error)


def message(data: bytes) -> None:
    """Bytes that are a message, checked as a support of a request: its definition, or an invalid field."""
    from google.protobuf.message import DecodeError

    from service.supports.names import content_name
    from service.supports.validation import check_support
    from tests.service.numpy_engine import tiny_manifest

    try:
        request = pose_service_pb2.EstimatePoseRequest.FromString(data)
    except DecodeError:
        return
    try:
        check_support(request.inline_support, tiny_manifest(), LIMITS)
    except InvalidFieldError as error:
        assert error.violations[0][0]
        return
    copy = support_pb2.Support.FromString(request.inline_support.SerializeToString())
    assert content_name(copy) == content_name(request.inline_support)


def _annotation(data: bytes, ending: str) -> None:
    path = FOLDER / f"fuzz_{os.getpid()}{ending}"
    path.write_bytes(data)
    try:
        definition = read_support(path)
    except AnnotationError as error:
        assert path.name in str(error)
        return
    json.dumps([keypoint.name for keypoint in definition.keypoints])
    for example in definition.examples:
        assert len(example.keypoints) == len(definition.keypoints)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (image, annotation_json, annotation_yaml, coco, message)
}
