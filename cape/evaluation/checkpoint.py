"""Predictions of a checkpoint, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cape.checkpoints import Checkpoint
from cape.evaluation.estimator import EpisodeAnswer, EstimatedPose, EstimationError, QueryObject
from cape.evaluation.kept import Kept
from cape.geometry import Crop
from cape.predictor import PredictionError, Predictor
from cape.support import SupportDefinition

KEPT_FEATURES = 2**30
"""Bytes of backbone features to cache: those of 5000 objects of a Swin V2, or 2400 of an EfficientNet-Lite0."""

BATCH = 16
"""Crops per backbone pass."""


class CheckpointEstimator:
    """An `Estimator` that runs a checkpoint. Caches the backbone features of each object.

    Args:
        checkpoint: from `load_checkpoint`.
        device: device to run on.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> None:
        self._predictor = Predictor(checkpoint, device)
        self._features: Kept[Tensor] = Kept(KEPT_FEATURES, lambda features: features.nbytes)
        configuration = self._predictor.configuration
        weights = "" if configuration.trained else ", random weights"
        self._name = (
            f"{checkpoint.source.name}: {configuration.system}, {configuration.backbone.name}, PyTorch float32{weights}"
        )

    @property
    def name(self) -> str:
        """Checkpoint, system, backbone, precision."""
        return self._name

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """See `Estimator.estimate`."""
        try:
            encoded = self._predictor.encode_support(support)
            crops = [self._predictor.crop(query.box, query.image) for query in queries]
        except (PredictionError, OSError) as error:
            raise EstimationError(str(error)) from None
        pose = self._predictor.decode(self._encode(queries, crops), encoded)
        keypoints, scores = pose.keypoints.float().cpu().numpy(), pose.scores.float().cpu().numpy()
        poses = tuple(
            EstimatedPose(crop.to_image(keypoints[row]), scores[row], encoded.located) for row, crop in enumerate(crops)
        )
        return EpisodeAnswer(poses, encoded.modalities)

    def close(self) -> None:
        """Does nothing: Python frees the model."""

    def _encode(self, queries: Sequence[QueryObject], crops: Sequence[Crop]) -> Tensor:
        """Features [B, C, F, F] of queries, cached by object."""
        features = [self._features.get(query.object_id) for query in queries]
        new = [row for row, known in enumerate(features) if known is None]
        for start in range(0, len(new), BATCH):
            rows = new[start : start + BATCH]
            computed = self._predictor.encode_crops([crops[row].extract(queries[row].image) for row in rows])
            for row, one in zip(rows, computed, strict=True):
                own = one.clone()  # a view would keep the whole batch alive
                features[row] = own
                self._features.put(queries[row].object_id, own)
        return torch.stack([known for known in features if known is not None])
