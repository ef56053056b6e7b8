"""Images of requests: bytes of any kind in, upright RGB pixels out.

Whatever the bytes are, the only error that leaves this module is InvalidFieldError. Limits are checked on the
header, before anything is decoded: a few kilobytes can claim to be 60,000 × 60,000 pixels.

Large JPEGs need not be decoded in full: their blocks of 8 × 8 pixels can be turned into 4 × 4, 2 × 2 or one pixel for
a fraction of the time, where a crop of them will be scaled down further anyway.

Pillow says what an image is, and decodes all but the common JPEG. That goes straight to libjpeg-turbo, the library that
Pillow's own decoder stands on: the same pixels without Pillow's two copies of them, in half the time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from cape.geometry import Crop
from cape.images import (
    SIDEWAYS,
    UPRIGHT,
    ImageError,
    not_an_image,
    orientation_of,
    readable_formats,
    reason_of,
    to_rgb,
)
from cape.v1 import image_pb2
from service.errors import InvalidFieldError, QueueFullError
from service.images.decoding import DecodeMemory

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
START_OF_SCAN = b"\xff\xda"

# Pillow raises at its own limit of 179 megapixels while it opens the file; ours is stricter and configurable.
Image.MAX_IMAGE_PIXELS = None


REVERSED_X, REVERSED_Y = {2, 3, 6, 7}, {3, 4, 7, 8}
"""Orientations whose upright x, or y, runs against the stored axis that it comes from."""

RETRY_MEMORY = 1.0
"""Seconds after which to retry when the process is out of memory."""

MAX_CHUNKS = 10_000
"""Chunks of a PNG. Encoders write the pixels in chunks of 8 KiB, or 2,048 for the largest image."""

REDUCTIONS = (8, 4, 2)
"""Factors by which a JPEG's sides can be reduced while it is decoded, largest first."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large an image may be.

    Attributes:
        max_bytes: largest file, or largest raw pixel array.
        max_pixels: most pixels, height × width.
        max_scans: most scans of a progressive JPEG, each of which costs a pass over all pixels. Encoders write 10.
        memory: memory that decoded images share; None: unbounded.
    """

    max_bytes: int
    max_pixels: int
    max_scans: int = 100
    memory: DecodeMemory | None = None


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


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Decoded pixels, and where they lie in the image.

    Attributes:
        pixels: RGB, uint8 [h, w, 3], upright, transparency on white; not to be written to.
        reduction: sides of the image ÷ sides of `pixels`, rounded up: 1, 2, 4 or 8.
        left, top: where the centre of the first pixel lies in the image, in its pixels.
    """

    pixels: npt.NDArray[np.uint8]
    reduction: int = 1
    left: float = 0.0
    top: float = 0.0

    def extract(self, crop: Crop) -> npt.NDArray[np.uint8]:
        """Cuts a crop of the image out, RGB, uint8 [size, size, 3]."""
        if self.reduction == 1:
            return crop.extract(self.pixels)
        left, top = (crop.left - self.left) / self.reduction, (crop.top - self.top) / self.reduction
        return Crop(left, top, crop.side / self.reduction, crop.size).extract(self.pixels)


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An image whose size is known, and whose pixels are decoded when it is known what they are needed for.

    Attributes:
        height, width: of the upright image, in pixels.
        source: a JPEG of which the header has been read, or pixels.
        orientation: of the JPEG, 1–8.
        encoded: the JPEG.
        limits: gives the reserved memory back.
        reserved: bytes of it.
    """

    height: int
    width: int
    source: JpegImageFile | npt.NDArray[np.uint8]
    orientation: int = 1
    encoded: bytes = b""
    limits: ImageLimits | None = None
    reserved: int = 0

    def close(self) -> None:
        """Gives reserved memory back. The pixels must not be needed any more."""
        if self.limits is not None and self.limits.memory is not None:
            self.limits.memory.release(self.reserved)

    def decode(self, crops: Sequence[Crop] = ()) -> DecodedImage:
        """Decodes the pixels, as few as the crops need; once. Takes CPU time: call it in a thread.

        A JPEG is reduced as long as every crop keeps a pixel for each that it will have: where the crop would have
        skipped pixels, it now has their means.

        Args:
            crops: what will be cut out; none for all of the image.

        Raises:
            InvalidFieldError: field 'encoded', damaged data.
        """
        if not isinstance(self.source, JpegImageFile):
            return DecodedImage(self.source)
        room = min(self.height, self.width, *(crop.side / crop.size for crop in crops)) if crops else 1
        reduction = next((factor for factor in REDUCTIONS if factor <= room), 1)
        with _decoding():
            if (stored := _decode_jpeg(self.encoded, self.source, reduction)) is not None:
                return self._placed(_upright(stored, self.orientation), reduction)
            if reduction > 1:
                # Pillow reduces as far as it can without falling below this size.
                self.source.draft(None, (self.source.width // reduction, self.source.height // reduction))
            pixels = to_rgb(self.source, self.orientation)
        return self._placed(pixels, reduction)

    def _placed(self, pixels: npt.NDArray[np.uint8], reduction: int) -> DecodedImage:
        """Works out where reduced pixels lie. The last ones of a stored row or column may reach beyond the image, and
        in an image that is turned upright they can be the first."""
        middle = (reduction - 1) / 2
        beyond_x = self.width - reduction * pixels.shape[1] if self.orientation in REVERSED_X else 0
        beyond_y = self.height - reduction * pixels.shape[0] if self.orientation in REVERSED_Y else 0
        return DecodedImage(pixels, reduction, middle + beyond_x, middle + beyond_y)


def open_image(message: image_pb2.Image, limits: ImageLimits) -> OpenedImage:
    """Reads the header of a request's image; decodes what is no JPEG. Takes CPU time: call it in a thread.

    Raises:
        InvalidFieldError: field '', 'encoded' or 'raw…', relative to the image message.
    """
    check_image(message, limits)
    if message.WhichOneof("source") == "raw":
        return _opened(_from_raw(message.raw, limits))
    with _decoding(message.encoded[:64]):
        if message.encoded.startswith(PNG_SIGNATURE):
            _check_chunks(message.encoded)
        image = Image.open(io.BytesIO(message.encoded), formats=readable_formats())
        width, height = image.size
        _check_size("encoded", height, width, limits)
        scans = message.encoded.count(START_OF_SCAN) if isinstance(image, JpegImageFile) else 0
        # Markers cannot occur within a scan's data; thumbnails in the header add one or two.
        if scans > limits.max_scans:
            raise InvalidFieldError("encoded", f"a JPEG of {scans:,} scans; at most {limits.max_scans}")
        reserved = limits.memory.reserve(width * height) if limits.memory is not None else 0
        try:
            if not isinstance(image, JpegImageFile):
                # Only the first frame of an animation, and the first page of a document. The orientation may come after
                # the pixels.
                image.load()
                pixels = to_rgb(image, orientation_of(image))
                return OpenedImage(pixels.shape[0], pixels.shape[1], pixels, limits=limits, reserved=reserved)
            orientation = orientation_of(image)
            if orientation in SIDEWAYS:
                height, width = width, height
            return OpenedImage(height, width, image, orientation, message.encoded, limits, reserved)
        except BaseException:
            if limits.memory is not None:
                limits.memory.release(reserved)
            raise


def _check_chunks(encoded: bytes) -> None:
    """Refuses a PNG of very many chunks, each of which costs time however small it is."""
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(encoded):
            return
        position += 12 + int.from_bytes(encoded[position : position + 4])
    raise InvalidFieldError("encoded", f"a PNG of more than {MAX_CHUNKS:,} chunks")


def read_image(message: image_pb2.Image, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    """Decodes an image of a request in full. Takes CPU time: call it in a thread.

    Returns:
        RGB, uint8 [H, W, 3], upright (EXIF orientation applied), transparency on white; not to be written to.

    Raises:
        InvalidFieldError: field '', 'encoded' or 'raw…', relative to the image message.
    """
    image = open_image(message, limits)
    try:
        return image.decode().pixels
    finally:
        image.close()


def _opened(pixels: npt.NDArray[np.uint8]) -> OpenedImage:
    return OpenedImage(pixels.shape[0], pixels.shape[1], pixels)


@contextmanager
def _decoding(head: bytes = b"") -> Iterator[None]:
    """Turns whatever Pillow raises into an error of the field."""
    try:
        yield
    except InvalidFieldError:
        raise
    except MemoryError:
        raise QueueFullError(RETRY_MEMORY) from None
    except UnidentifiedImageError:
        raise InvalidFieldError("encoded", not_an_image(head)) from None
    except ImageError as error:
        raise InvalidFieldError("encoded", str(error)) from None
    except Exception as error:
        # For broken files Pillow raises OSError, SyntaxError, ValueError, struct.error, EOFError and more.
        raise InvalidFieldError("encoded", f"truncated or damaged image: {reason_of(error)}") from error


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


def _decode_jpeg(encoded: bytes, header: JpegImageFile, reduction: int) -> npt.NDArray[np.uint8] | None:
    """Decodes a JPEG of three colours, as stored; None for any other, and for damaged ones: Pillow judges those."""
    if header.mode != "RGB":
        return None
    height, width = -(-header.height // reduction), -(-header.width // reduction)
    try:
        # Whose header says something else is not what the limits were checked on.
        if simplejpeg.decode_jpeg_header(encoded)[:2] != (header.height, header.width):
            return None
        # The smallest that it can make which has this size at least; more than damage it takes for an error.
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "RGB", min_height=height, min_width=width)
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def _upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Turns stored pixels upright."""
    if orientation not in UPRIGHT:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[orientation]))
