"""Guesses that look at no picture: what a model has to beat before its numbers mean anything."""

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
"""Objects of a category that a mean is taken of."""


class CentreEstimator:
    """An `Estimator` that says the middle of the box, for every keypoint."""

    name = "baseline: the centre of the box"

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """See `Estimator.estimate`."""
        places = np.full((len(support.keypoints), 2), 0.5)
        return EpisodeAnswer(tuple(_placed(places, query.box) for query in queries), ())

    def close(self) -> None:
        """Nothing to free."""


class MeanEstimator:
    """An `Estimator` that says where a keypoint of that category is on average, as a share of the box.

    Averages are those of the category's other objects in the same data set, which no model of unseen categories
    gets to know: it is what someone would say who knows the category and does not look.

    Args:
        dataset: the data that is evaluated on.

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
        """[K, 2]; the middle of the box for a keypoint that no object shows."""
        shares = np.array([self._share(object_id) for object_id in objects]).reshape(-1, count, 2)
        seen = ~np.isnan(shares[..., 0])
        total = np.where(seen[..., None], shares, 0.0).sum(0)
        shown = seen.sum(0)[:, None]
        return np.where(shown > 0, total / np.maximum(shown, 1), 0.5)

    def _share(self, object_id: int) -> npt.NDArray[np.float64]:
        """An object's keypoints as shares of its box; NaN where hidden."""
        if object_id not in self._shares:
            found = self._dataset.load(object_id)
            share = (found.keypoints - (found.box.x, found.box.y)) / (found.box.width, found.box.height)
            self._shares[object_id] = np.where(found.visible[:, None], share, np.nan)
        return self._shares[object_id]


def _placed(shares: npt.NDArray[np.float64], box: Box) -> EstimatedPose:
    keypoints = shares * (box.width, box.height) + (box.x, box.y)
    count = len(shares)
    return EstimatedPose(keypoints.astype(np.float32), np.full(count, 0.5, np.float32), np.ones(count, np.bool_))
