"""Entries of COCO keypoint files in the variants that tools write: categories, images and annotations."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from cape.support import Box

Id: TypeAlias = int | str
"""Ids are numbers or strings; a string of digits equals the number."""

BORDER = 1.0
"""Keypoints at most this many pixels outside their image are moved to its edge: annotation tools round."""


def parse_id(value: Any) -> Any:
    """Normalises an id: a string of digits becomes the number."""
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        return int(value)
    return value


def _plain_name(value: Any) -> Any:
    return "" if value is None else str(value) if isinstance(value, int | float) else value


def _flat(value: Any) -> Any:
    """Flattens nested triples."""
    if isinstance(value, list) and value and all(isinstance(part, list) for part in value):
        return [number for part in value for number in part]
    return value


_Id = Annotated[Id, BeforeValidator(parse_id)]
_Name = Annotated[str, BeforeValidator(_plain_name)]


class _Entry(BaseModel):
    """Treats null, missing and empty alike as absent."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        return {name: value for name, value in document.items() if value is not None and value != []}


class CocoCategory(_Entry):
    """An entry of `categories`; only those with keypoints are used."""

    id: _Id
    name: _Name
    supercategory: _Name = ""
    keypoints: list[_Name] = []
    skeleton: list[tuple[int, int]] = []


class CocoImage(_Entry):
    """An entry of `images`. `split` is not part of COCO, but common in files with several splits."""

    id: _Id
    file_name: str
    width: float | None = None
    height: float | None = None
    split: str | None = None


class CocoAnnotation(_Entry):
    """An entry of `annotations`: one object."""

    id: _Id = -1
    image_id: _Id
    category_id: _Id
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    keypoints: Annotated[list[float | None], BeforeValidator(_flat)] = []
    area: float | None = None
    num_keypoints: int | None = None
    iscrowd: bool = False

    @property
    def box(self) -> Box | None:
        """None if the file has no box, or one without area."""
        if self.bbox is None or not all(map(math.isfinite, self.bbox)) or min(self.bbox[2:]) <= 0:
            return None
        return Box(*self.bbox)

    @property
    def points(self) -> list[tuple[float, float] | None]:
        """Points of labelled keypoints (visibility above 0, occluded ones included); None for the others."""
        triples = zip(self.keypoints[0::3], self.keypoints[1::3], self.keypoints[2::3], strict=True)
        return [
            (x, y) if x is not None and y is not None and math.isfinite(x + y) and (visibility or 0) > 0 else None
            for x, y, visibility in triples
        ]

    @property
    def labelled(self) -> int:
        """Number of keypoints that have coordinates."""
        return sum(point is not None for point in self.points)


class Placement(NamedTuple):
    """An annotation in pixels of its upright image.

    Attributes:
        box: clipped to the image; None without an annotated box.
        keypoints: float32 [K, 2].
        visible: bool [K].
        moved: number of keypoints less than a pixel outside, moved to the edge.
        hidden: number of keypoints further outside, hidden.
    """

    box: Box | None
    keypoints: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]
    moved: int
    hidden: int
