"""Messages to send to a server, right ones, for tests to spoil."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from cape.v1 import image_pb2, pose_service_pb2, support_pb2


def photograph(width: int = 120, height: int = 90, seed: int = 0) -> np.ndarray:
    """Smooth colours, RGB uint8 [height, width, 3]: JPEG hardly changes them."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(x / 17 + seed), np.cos(y / 13 + seed), np.sin((x + y) / 23 + seed)]
    return np.stack([(wave + 1) * 127 for wave in waves], axis=-1).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def header_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def raw(image: np.ndarray) -> image_pb2.Image:
    """Bare pixels."""
    return image_pb2.Image(raw=image_pb2.RawImage(height=image.shape[0], width=image.shape[1], rgb=image.tobytes()))


def cat_support(seed: int = 0) -> support_pb2.Support:
    """Three keypoints, a skeleton and one example of 120 × 90 pixels."""
    example = support_pb2.SupportExample(
        image=image_pb2.Image(encoded=encoded(photograph(seed=seed))),
        box=image_pb2.BoundingBox(x=10, y=10, width=80, height=70),
    )
    for x, y in ((20, 20), (60, 20), (40, 60)):
        example.keypoints.add(x=x, y=y)
    support = support_pb2.Support(category="cat", examples=[example])
    for name in ("left ear", "right ear", "nose"):
        support.keypoints.add(name=name)
    support.skeleton.add(start=0, end=2)
    support.skeleton.add(start=1, end=2)
    return support


def query(image: bytes | image_pb2.Image | None = None, **fields: Any) -> pose_service_pb2.EstimatePoseRequest:
    """A query of 120 × 90 pixels; with an inline support, unless it names one."""
    if "support" not in fields:
        fields.setdefault("inline_support", cat_support())
    if not isinstance(image, image_pb2.Image):
        image = image_pb2.Image(encoded=encoded(photograph(seed=3)) if image is None else image)
    return pose_service_pb2.EstimatePoseRequest(image=image, **fields)


def points(instance: pose_service_pb2.PoseInstance) -> np.ndarray:
    """Keypoints of an instance, [K, 2]."""
    return np.array([(keypoint.x, keypoint.y) for keypoint in instance.keypoints])
