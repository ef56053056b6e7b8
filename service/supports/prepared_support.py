"""What the pipeline knows of a support once it has been checked and its images are cropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Shot:
    """One support image, cropped.

    Attributes:
        crop: RGB, uint8 [size, size, 3].
        keypoints: float32 [K, 2] in crop coordinates 0–1; a keypoint outside the crop lies outside 0–1.
        visible: bool [K].
    """

    crop: npt.NDArray[np.uint8]
    keypoints: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PreparedSupport:
    """A support, ready to be encoded.

    Attributes:
        name: 'supports/{digest of the content}'; for inline supports too, so it can key caches.
        texts: what the text encoder reads, one per keypoint; empty when text is not to be used.
        edges: int64 [E, 2], skeleton as keypoint indices.
        shots: support images; empty when images are not there or not to be used.
        keypoints: K.
        owner: whose support it is; texts of different owners are cached apart.
    """

    name: str
    texts: tuple[str, ...]
    edges: npt.NDArray[np.int64]
    shots: tuple[Shot, ...]
    keypoints: int
    owner: str = ""
