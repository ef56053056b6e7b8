"""Common interface of the sources of predictions: checkpoint, exported repository and running service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cape.support import Box, Modality, SupportDefinition


class EstimationError(RuntimeError):
    """A prediction failed. The message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryObject:
    """A query object.

    Attributes:
        object_id: unique in its data set; usable as a cache key.
        image: RGB, uint8 [H, W, 3].
        box: the object, in pixels.
    """

    object_id: int
    image: npt.NDArray[np.uint8]
    box: Box


@dataclass(frozen=True, slots=True, eq=False)
class EstimatedPose:
    """The K keypoints found on one object.

    Attributes:
        keypoints: float32 [K, 2], x and y in pixels of the image.
        scores: float32 [K], 0–1.
        located: bool [K]; False where the support does not describe the keypoint; its other values are undefined.
    """

    keypoints: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    located: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeAnswer:
    """Poses found with one support.

    Attributes:
        poses: one per query, in order.
        modalities: the support's modalities that were used.
    """

    poses: tuple[EstimatedPose, ...]
    modalities: tuple[Modality, ...]


class Estimator(Protocol):
    """Finds the keypoints of a support on objects of one data set."""

    @property
    def name(self) -> str:
        """Name in reports, with everything that affects its answers."""

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """Encodes a support once and finds its keypoints on every query.

        Args:
            support: must have its example images as arrays.
            queries: at least one.

        Raises:
            MissingModalityError: the support lacks a modality that the model needs.
            EstimationError: the prediction failed for another reason.
        """

    def close(self) -> None:
        """Frees all resources. The estimator cannot be used afterwards."""
