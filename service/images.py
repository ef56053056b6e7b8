"""Images of requests: bytes of any kind in, upright RGB pixels out.

Whatever the bytes are, the only error that leaves this module is InvalidFieldError. Limits are checked on the
header, before anything is decoded: a few kilobytes can claim to be 60,000 × 60,000 pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from cape.v1 import image_pb2
from service.errors import InvalidFieldError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats that are read, by Pillow's names. No others are tried: their decoders cannot be attacked."""

WIDE_MODES = {"I", "F"}
"""32-bit integer and floating point pixels: their range is unknown, scaling to 8 bits would be a guess."""

# Pillow raises at its own limit of 179 megapixels while it opens the file; ours is stricter and configurable.
Image.MAX_IMAGE_PIXELS = None


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation; 1 is upright already."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large an image may be.

    Attributes:
        max_bytes: largest file, or largest raw pixel array.
        max_pixels: most pixels, height × width.
    """

    max_bytes: int
    max_pixels: int


def check_image(message: image_pb2.Image, limits: ImageLimits) -> None:
    """Checks what can be checked of an image without reading it: that there is one, and its bytes' number.

    Raises:
        InvalidFieldError: field '', 'encoded' or 'raw.rgb', relative to the image message.
    """
    source = message.WhichOneof("source")
    if source is None:
        raise InvalidFieldError("", "no image: set encoded or raw")
    field, data = ("encoded", message.encoded) if source == "encoded" else ("raw.rgb", message.raw.rgb)
    if not data:
        raise InvalidFieldError(field, "zero bytes")
    if len(data) > limits.max_bytes:
        raise InvalidFieldError(field, f"{len(data):,} bytes; at most {limits.max_bytes:,}")


def read_image(message: image_pb2.Image, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    """Decodes an image of a request. Takes CPU time: call it in a thread.

    Returns:
        RGB, uint8 [H, W, 3], upright (EXIF orientation applied), transparency on white.

    Raises:
        InvalidFieldError: field '', 'encoded' or 'raw…', relative to the image message.
    """
    check_image(message, limits)
    if message.WhichOneof("source") == "raw":
        return _from_raw(message.raw, limits)
    return _decode(message.encoded, limits)


def _decode(data: bytes, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    """Decodes an image file; only the first frame of those that have several."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            _check_size("encoded", height, width, limits)
            return _to_rgb(image)
    except InvalidFieldError:
        raise
    except UnidentifiedImageError:
        raise InvalidFieldError("encoded", "not a JPEG, PNG, WebP, BMP or TIFF image") from None
    except Exception as error:
        # For broken files Pillow raises OSError, SyntaxError, ValueError, struct.error, EOFError and more.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidFieldError("encoded", f"truncated or damaged image: {reason}") from error


def _from_raw(raw: image_pb2.RawImage, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    """Checks bare pixels and gives them their shape; a view, nothing is copied."""
    for side in ("height", "width"):
        if getattr(raw, side) < 1:
            raise InvalidFieldError(f"raw.{side}", f"{getattr(raw, side)}; at least 1")
    _check_size("raw", raw.height, raw.width, limits)
    expected = raw.height * raw.width * 3
    if len(raw.rgb) != expected:
        raise InvalidFieldError(
            "raw.rgb", f"{len(raw.rgb):,} bytes; {raw.height} × {raw.width} × 3 = {expected:,} are needed"
        )
    return np.frombuffer(raw.rgb, np.uint8).reshape(raw.height, raw.width, 3)


def _check_size(field: str, height: int, width: int, limits: ImageLimits) -> None:
    if height * width > limits.max_pixels:
        raise InvalidFieldError(field, f"{width:,} × {height:,} pixels; at most {limits.max_pixels:,} pixels in all")
    if height < 1 or width < 1:
        raise InvalidFieldError(field, "an image without pixels")


def _to_rgb(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    """Decodes the pixels, converts them to 8-bit RGB and turns them upright."""
    image.load()
    if image.mode in WIDE_MODES:
        raise InvalidFieldError("encoded", "32-bit pixels; use 8 or 16 bits a channel")
    orientation = _orientation(image)
    pixels: Image.Image = image
    if pixels.mode.startswith("I;16"):
        grey = np.asarray(pixels).astype(np.uint32)
        # 65,535 / 255 = 257: the whole range is scaled, where Pillow's own conversion would clip at 255.
        pixels = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if pixels.has_transparency_data:
        layers = pixels.convert("RGBA")
        pixels = Image.new("RGB", layers.size, "white")
        pixels.paste(layers, mask=layers.getchannel("A"))
    rgb = pixels.convert("RGB")
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
    return np.array(rgb, dtype=np.uint8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1–8; 1 where the EXIF data says nothing or are damaged, as photo viewers do."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1
