"""Reads image files of many kinds as upright 8-bit RGB.

The client, data sets, drawing and the service all read images here, so that a model sees the same pixels everywhere.
"""

from __future__ import annotations

import io
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from cape.support import ImageSource

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats that are always supported, by Pillow's names. Others are rejected, which keeps their decoders off the attack
surface."""

BAND_PIXELS = 1_000_000
"""Pixels to convert at a time."""

WIDE_MODES = {"I", "F"}
"""Modes with 32-bit pixels. Their range is unknown, so scaling them to 8 bits would be a guess."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that makes an image upright, by EXIF orientation; 1 needs none."""

SIDEWAYS = {5, 6, 7, 8}
"""Orientations that swap width and height."""

MODERN_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
"""Brand in the header of an ISO media file → common name."""


class ImageError(OSError):
    """An image cannot be read. The message says why."""


class ImageSize(NamedTuple):
    """Size of an image, from its header.

    Attributes:
        width, height: upright, in pixels.
        orientation: EXIF orientation, 1–8.
    """

    width: int
    height: int
    orientation: int = 1

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height before the EXIF orientation is applied."""
        return (self.height, self.width) if self.orientation in SIDEWAYS else (self.width, self.height)


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Formats that this installation supports; with the extra `heif` also HEIC and AVIF."""
    if find_spec("pillow_heif") is None:
        return FORMATS
    import pillow_heif

    pillow_heif.register_heif_opener()
    Image.init()
    return (*FORMATS, "HEIF", *(name for name in ("AVIF",) if name in Image.OPEN))


def read_image(source: ImageSource) -> npt.NDArray[np.uint8]:
    """Reads an image.

    Args:
        source: path or content of an image file, or pixels, which are returned as they are.

    Returns:
        RGB, uint8 [H, W, 3], upright (EXIF orientation applied), transparency on white.

    Raises:
        ImageError: it cannot be read, is damaged or truncated, or has an unsupported format.
    """
    if isinstance(source, np.ndarray):
        return source
    name = f"{os.fspath(source)}: " if not isinstance(source, bytes) else ""
    try:
        with open_image(source) as image:
            # The orientation of a PNG may follow its pixels.
            image.load()
            return to_rgb(image, orientation_of(image))
    except ImageError:
        raise
    except Exception as error:
        # For broken files Pillow raises OSError, SyntaxError, ValueError, struct.error, EOFError and more.
        raise ImageError(f"{name}truncated or damaged image: {reason_of(error)}") from None


def image_size(source: str | os.PathLike[str] | bytes) -> ImageSize:
    """Reads the size of an image file without decoding it.

    Raises:
        ImageError: as `read_image`, but damage after the header is not detected.
    """
    with open_image(source) as image:
        orientation = orientation_of(image)
        width, height = image.size[::-1] if orientation in SIDEWAYS else image.size
        return ImageSize(width, height, orientation)


def open_image(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Opens an image file and reads its header.

    Raises:
        ImageError: it is missing, not an image, or has an unsupported format.
    """
    name = f"{os.fspath(source)}: " if not isinstance(source, bytes) else ""
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source), formats=readable_formats())
    except UnidentifiedImageError:
        raise ImageError(f"{name}{not_an_image(_head(source))}") from None
    except OSError as error:
        raise ImageError(f"{name}{error.strerror or reason_of(error)}") from None
    except Exception as error:
        raise ImageError(f"{name}truncated or damaged image: {reason_of(error)}") from None


def not_an_image(head: bytes) -> str:
    """Explains why content cannot be decoded.

    Args:
        head: its first bytes, 16 or more.
    """
    if head[4:8] == b"ftyp" and (kind := MODERN_BRANDS.get(head[8:12])):
        return f"a {kind} image, which is read where the extra is installed: pip install 'capeserve[heif]'"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer instead of an image: run git lfs pull"
    return "not a JPEG, PNG, WebP, BMP or TIFF image"


def to_rgb(image: Image.Image, orientation: int) -> npt.NDArray[np.uint8]:
    """Decodes an image to 8-bit RGB and turns it upright.

    16-bit grey is scaled to 8 bits over its whole range; transparency becomes white.

    Raises:
        ImageError: it has 32 bits per channel.
    """
    image.load()
    if image.mode in WIDE_MODES:
        raise ImageError("32-bit pixels; use 8 or 16 bits a channel")
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    # In bands of rows, so that Pillow's pixels and these are the only full copies: 7 bytes per pixel.
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = image if rows >= height else image.crop((0, top, width, bottom))
        pixels[top:bottom] = np.asarray(_band_to_rgb(band))
    if orientation not in UPRIGHT:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[orientation]))


def _band_to_rgb(band: Image.Image) -> Image.Image:
    """Converts rows of an image to 8-bit RGB on a white background."""
    if band.mode.startswith("I;16"):
        grey = np.asarray(band).astype(np.uint32)
        # 65,535 / 255 = 257: scales the whole range; Pillow's conversion would clip at 255.
        band = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if band.has_transparency_data:
        layers = band.convert("RGBA")
        band = Image.new("RGB", layers.size, "white")
        band.paste(layers, mask=layers.getchannel("A"))
    return band if band.mode == "RGB" else band.convert("RGB")


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1–8; 1 if it is missing or damaged, as in image viewers."""
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1
    return orientation if orientation in UPRIGHT else 1


def turn_points(points: npt.NDArray[np.float32], size: ImageSize) -> npt.NDArray[np.float32]:
    """Maps points [N, 2] in pixels of the stored image to pixels of the upright image."""
    width, height = size.stored
    x, y = points[:, 0], points[:, 1]
    turned = {
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }.get(size.orientation, (x, y))
    return np.stack(turned, axis=1).astype(np.float32)


def reason_of(error: Exception) -> str:
    """Returns an exception's message as one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _head(source: str | os.PathLike[str] | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:64]
    with Path(source).open("rb") as file:
        return file.read(64)
