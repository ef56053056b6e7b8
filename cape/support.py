"""Supports as plain Python types, shared by `cape.client` and `cape.annotations`."""

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
"""A part of a support that models can use: its example images, or the texts of its keypoints."""


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
        image: the image; None if the server omitted the pixels.
        keypoints: float32 [K, 2], x and y in pixels of the upright image; undefined where hidden.
        visible: bool [K], False for a hidden keypoint.
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
        category: display name of the category: "cat".
        keypoints: the K keypoints, in the order of every answer.
        skeleton: pairs of joined keypoints, as indices from 0.
        examples: images in which the keypoints are located; may be empty for models that need only text.
        modalities: modalities that models may use; empty for text and, if there are examples, images.
    """

    category: str
    keypoints: tuple[KeypointDefinition, ...]
    skeleton: tuple[tuple[int, int], ...] = ()
    examples: tuple[SupportExample, ...] = ()
    modalities: tuple[Modality, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Keypoint names, in order."""
        return tuple(keypoint.name for keypoint in self.keypoints)


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredSupport:
    """A support registered on a server.

    Attributes:
        name: resource name, "supports/{id}"; identical content has the same name.
        create_time: when it was registered, in UTC.
        definition: its content; example images are None unless they were requested.
        already_existed: after a registration, whether the same content was registered before.
    """

    name: str
    create_time: datetime
    definition: SupportDefinition
    already_existed: bool = False
