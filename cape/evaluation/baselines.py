"""Baselines that ignore the image, for comparison with a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from cape.data.dataset import KeypointDataset
from cape.evaluation.estimator import EpisodeAnswer, EstimatedPose, QueryObject
from cape.support import Box, SupportDefinition

BaselineName = Literal["centre", "mean"]
BASELINES: tuple[BaselineName, ...] = ("centre", "mean")

MEAN_OF = 30
"""Maximum number of objects of a category to average over."""


class CentreEstimator:
    """An `Estimator` that returns the centre of the box for every keypoint."""

    name = "baseline: the centre of the box"

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """See `Estimator.estimate`."""
        places = np.full((len(support.keypoints), 2), 0.5)
        return EpisodeAnswer(tuple(_placed(places, query.box) for query in queries), ())

    def close(self) -> None:
        """Nothing to free."""


class MeanEstimator:
    """An `Estimator` that returns each keypoint's mean position in its category, relative to the box.

    The mean is taken over other objects of the category in the same data set. A model never sees these objects of
    an unseen category, so this baseline uses knowledge that a model does not have.

    Args:
        dataset: the evaluated data set.

    Raises of `estimate`:
        DatasetError: an object cannot be read.
    """

    name = "baseline: the mean place of the keypoint in its category"

    def __init__(self, dataset: KeypointDataset) -> None:
        self._dataset = dataset
        self._numbers = {category.name: number for number, category in enumerate(dataset.categories)}
        self._shares: dict[int, npt.NDArray[np.float64]] = {}

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """See `Estimator.estimate`."""
        asked = {query.object_id for query in queries}
        objects = self._dataset.objects(self._numbers[support.category])
        others = [object_id for object_id in objects if object_id not in asked][:MEAN_OF]
        places = self._mean(others, len(support.keypoints))
        return EpisodeAnswer(tuple(_placed(places, query.box) for query in queries), ())

    def close(self) -> None:
        """Nothing to free."""

    def _mean(self, objects: Iterable[int], count: int) -> npt.NDArray[np.float64]:
        """Mean positions [K, 2]; the centre of the box for a keypoint that no object shows."""
        shares = np.array([self._share(object_id) for object_id in objects]).reshape(-1, count, 2)
        seen = ~np.isnan(shares[..., 0])
        total = np.where(seen[..., None], shares, 0.0).sum(0)
        shown = seen.sum(0)[:, None]
        return np.where(shown > 0, total / np.maximum(shown, 1), 0.5)

    def _share(self, object_id: int) -> npt.NDArray[np.float64]:
        """An object's keypoints as fractions of its box; NaN where hidden."""
        if object_id not in self._shares:
            found = self._dataset.load(object_id)
            share = (found.keypoints - (found.box.x, found.box.y)) / (found.box.width, found.box.height)
            self._shares[object_id] = np.where(found.visible[:, None], share, np.nan)
        return self._shares[object_id]


def _placed(shares: npt.NDArray[np.float64], box: Box) -> EstimatedPose:
    keypoints = shares * (box.width, box.height) + (box.x, box.y)
    count = len(shares)
    return EstimatedPose(keypoints.astype(np.float32), np.full(count, 0.5, np.float32), np.ones(count, np.bool_))
