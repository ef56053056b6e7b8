"""What a keypoint set looks like, in plain Python: what `cape.client` sends and `cape.annotations` reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8]
"""An image: path or content of a JPEG, PNG, WebP, BMP or TIFF file, or RGB pixels, uint8 [H, W, 3]."""

Modality: TypeAlias = Literal["image", "text"]
"""What a model can learn from of a support: its example images, or the texts of its keypoints."""


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle in pixels of the upright image; the origin is the image's top left corner.

    Attributes:
        x: left edge.
        y: top edge.
        width: more than 0.
        height: more than 0.
    """

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class KeypointDefinition:
    """One keypoint of a support.

    Attributes:
        name: unique in its support: "left eye".
        description: what the text encoder reads instead of the name; empty to read the name.
    """

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SupportExample:
    """An image in which the keypoints are located (a shot).

    Attributes:
        image: the image; None where a server left the pixels out of its answer.
        keypoints: float32 [K, 2], x and y in pixels of the upright image; of no meaning where hidden.
        visible: bool [K], False for a keypoint that cannot be seen in this image.
        box: the object in the image; None for the whole image.
    """

    image: ImageSource | None
    keypoints: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]
    box: Box | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SupportDefinition:
    """A category's keypoints, its skeleton and its example images.

    Attributes:
        category: name of the category, for people: "cat".
        keypoints: the K keypoints, in the order of every answer.
        skeleton: pairs of joined keypoints, as indices from 0.
        examples: images in which the keypoints are located; may be empty where a model works from text.
        modalities: what models may use; empty for text, and images where there are examples.
    """

    category: str
    keypoints: tuple[KeypointDefinition, ...]
    skeleton: tuple[tuple[int, int], ...] = ()
    examples: tuple[SupportExample, ...] = ()
    modalities: tuple[Modality, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the keypoints, in order."""
        return tuple(keypoint.name for keypoint in self.keypoints)


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredSupport:
    """A support as a server holds it.

    Attributes:
        name: resource name, "supports/{id}"; identical content has the identical name.
        create_time: when it was registered, in UTC.
        definition: its content; example images are None unless they were asked for.
        already_existed: in the answer to a registration, whether the same content had been registered before.
    """

    name: str
    create_time: datetime
    definition: SupportDefinition
    already_existed: bool = False
