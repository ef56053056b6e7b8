"""Where predictions come from: what a checkpoint, an exported repository and a running service have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cape.support import Box, Modality, SupportDefinition


class EstimationError(RuntimeError):
    """Predictions that could not be made; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryObject:
    """An object that keypoints are looked for on.

    Attributes:
        object_id: unique in its data set; what was computed of it may be kept under it.
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
        located: bool [K]; where False the support says nothing of the keypoint, and its rows mean nothing.
    """

    keypoints: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    located: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeAnswer:
    """What was found with one support.

    Attributes:
        poses: one per query, in order.
        modalities: what of the support was used.
    """

    poses: tuple[EstimatedPose, ...]
    modalities: tuple[Modality, ...]


class Estimator(Protocol):
    """Finds the keypoints of a support on objects of one data set."""

    @property
    def name(self) -> str:
        """What reports call it, with all that tells its answers from another's."""

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """Encodes a support once and finds its keypoints on every query.

        Args:
            support: its example images are arrays.
            queries: at least one.

        Raises:
            MissingModalityError: the support lacks what the model cannot do without.
            EstimationError: anything else that keeps it from answering.
        """

    def close(self) -> None:
        """Frees what it holds; it is of no use afterwards."""
