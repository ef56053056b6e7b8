"""The interface of data sets: categories, and annotated objects of each.

`cape.data.coco_dataset`, `cape.data.mp100` and `cape.data.synthetic` implement `KeypointDataset`; episodes, crops,
texts and scores depend on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cape.support import Box, KeypointDefinition


class DatasetError(ValueError):
    """Invalid data. The message names the file and the problem."""


@dataclass(frozen=True, slots=True)
class Category:
    """A category of objects and its keypoints.

    Attributes:
        name: unique in its data set: "cat body".
        super_category: the group that scores are summed up by: "animal_body".
        keypoints: the K keypoints, in the order of every annotation.
        skeleton: pairs of joined keypoints, as indices from 0.
        paraphrases: for each keypoint, other texts that say the same; empty where there are none.
    """

    name: str
    super_category: str
    keypoints: tuple[KeypointDefinition, ...]
    skeleton: tuple[tuple[int, int], ...] = ()
    paraphrases: tuple[tuple[str, ...], ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts for the text encoder: the description of each keypoint, or its name if there is none."""
        return tuple(keypoint.description or keypoint.name for keypoint in self.keypoints)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedObject:
    """One object of a category in a picture.

    Attributes:
        image: RGB, uint8 [H, W, 3], upright.
        box: the object, clipped to the picture; the length that PCK is measured by is its longer side.
        keypoints: float32 [K, 2], x and y in pixels of the picture; undefined where hidden.
        visible: bool [K].
    """

    image: npt.NDArray[np.uint8]
    box: Box
    keypoints: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]


class KeypointDataset(Protocol):
    """Categories and their objects. Reading is deterministic: the same object is the same pixels every time."""

    @property
    def name(self) -> str:
        """What tables call it: "real_poses (test)"."""

    @property
    def categories(self) -> Sequence[Category]:
        """The categories, in a fixed order."""

    def objects(self, category: int) -> Sequence[int]:
        """Ids of the objects of a category (by its index), in annotation order; an id is unique in the data set."""

    def load(self, object_id: int) -> AnnotatedObject:
        """Reads or draws one object.

        Raises:
            DatasetError: its image is missing or cannot be read.
        """
