"""Scores of a model in training on a fixed small set of pairs from held-out objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cape.configuration import SystemConfiguration
from cape.data.crops import crop_object
from cape.data.dataset import DatasetError, KeypointDataset
from cape.data.episodes import EpisodeBatch, Shot, TrainingEpisode, collate
from cape.data.pairs import draw_pairs
from cape.evaluation.metrics import Scores, mean_scores, score_pair
from cape.training.configuration import ValidationSource
from cape.training.encoders import Encoder
from cape.training.model import TrainedModel
from cape.training.texts import TextBank

PAIRS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Pair:
    """A test pair, by its category's index and objects."""

    category: int
    supports: tuple[int, ...]
    query: int


class ValidationSet:
    """Pairs of one data set, their crops (or their features, for a frozen backbone) in memory.

    Objects that cannot be read are left out with their pairs.

    Args:
        dataset: the data.
        source: how many pairs.
        texts: of its categories; None for systems that read none.
        configuration: of the model.
        shots: supports of an episode.
        encoder: the frozen backbone; None: the model encodes crops each time.

    Raises:
        DatasetError: no pair can be made.
    """

    def __init__(
        self,
        dataset: KeypointDataset,
        source: ValidationSource,
        texts: TextBank | None,
        configuration: SystemConfiguration,
        *,
        shots: int = 1,
        encoder: Encoder | None = None,
    ) -> None:
        self.name = dataset.name
        self._dataset = dataset
        self._texts = texts
        self._padding = configuration.box_padding
        plan = draw_pairs(dataset, shots=shots, episodes=source.episodes, queries=source.queries)
        self._shots: dict[int, Shot] = {}
        for object_id in sorted({each for e in plan.episodes for each in (*e.supports, *e.queries)}):
            try:
                annotated = dataset.load(object_id)
            except DatasetError:
                continue
            crop = crop_object(annotated, size=configuration.backbone.image_size, padding=self._padding)
            image = crop.image if encoder is None else encoder(crop.image[np.newaxis])[0]
            self._shots[object_id] = Shot(image, crop.keypoints, crop.visible)
        pairs = [_Pair(e.category, e.supports, query) for e in plan.episodes for query in e.queries]
        self._pairs = [pair for pair in pairs if self._scored(pair)]
        # Neighbours have a similar number of keypoints: little padding.
        self._pairs.sort(key=lambda pair: len(dataset.categories[pair.category].keypoints))
        if not self._pairs:
            raise DatasetError(f"{dataset.name}: no validation pair can be scored")

    def score(self, model: TrainedModel, device: torch.device) -> Scores:
        """Scores a model; leaves it in evaluation mode.

        Args:
            model: the model.
            device: where it is.
        """
        model.eval()
        scores = []
        with torch.inference_mode():
            for start in range(0, len(self._pairs), PAIRS_AT_ONCE):
                batch = collate([self._episode(pair) for pair in self._pairs[start : start + PAIRS_AT_ONCE]])
                batch = batch.to(device)
                pose, _ = model.estimate(batch)
                scores.extend(self._pair_scores(batch, pose.keypoints.float()))
        return mean_scores(scores)

    def _scored(self, pair: _Pair) -> bool:
        """Whether all its objects are there and see a keypoint in common."""
        ids = (*pair.supports, pair.query)
        if any(object_id not in self._shots for object_id in ids):
            return False
        return bool(np.logical_and.reduce([self._shots[object_id].visible for object_id in ids]).any())

    def _episode(self, pair: _Pair) -> TrainingEpisode:
        return TrainingEpisode(
            category=self._dataset.categories[pair.category],
            supports=tuple(self._shots[support] for support in pair.supports),
            query=self._shots[pair.query],
            texts=self._texts.choose(pair.category, np.random.default_rng(0)) if self._texts else None,
        )

    def _pair_scores(self, batch: EpisodeBatch, predicted: torch.Tensor) -> list[Scores]:
        # A crop's side is `padding` times the longer side of the box, which errors are measured by.
        distances = ((predicted - batch.target).square().sum(-1).sqrt() * self._padding).cpu().numpy()
        scored = (batch.target_visible * batch.visible.amin(1)).cpu().numpy() > 0
        return [score_pair(distance[mask], 1.0) for distance, mask in zip(distances, scored, strict=True)]
