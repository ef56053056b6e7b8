"""Photographs from files and pictures to files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cape.support import ImageSource


def read_image(source: ImageSource) -> npt.NDArray[np.uint8]:
    """The upright photograph (EXIF orientation applied), as servers see it.

    Returns:
        RGB, uint8 [H, W, 3].

    Raises:
        OSError: it cannot be read or is not an image.
    """
    if isinstance(source, np.ndarray):
        return source
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source)) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def write_image(picture: npt.NDArray[np.uint8], path: str | os.PathLike[str]) -> None:
    """Writes a picture in the format that the path's ending names.

    Args:
        picture: RGB, uint8 [H, W, 3].
        path: the file; its folder must exist.

    Raises:
        OSError: it cannot be written.
        ValueError: the ending names no format.
    """
    Image.fromarray(picture).save(path)
