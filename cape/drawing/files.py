"""Writes pictures to files."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from PIL import Image


def write_image(picture: npt.NDArray[np.uint8], path: str | os.PathLike[str]) -> None:
    """Writes a picture in the format given by the file extension.

    Args:
        picture: RGB, uint8 [H, W, 3].
        path: the file; its folder must exist.

    Raises:
        OSError: the file cannot be written.
        ValueError: the extension is unknown.
    """
    Image.fromarray(picture).save(path)
