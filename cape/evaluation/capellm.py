"""Predictions of a CapeLLM checkpoint, in PyTorch: from names and descriptions alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cape.capellm.configuration import Readout
from cape.evaluation.estimator import EpisodeAnswer, EstimatedPose, QueryObject
from cape.evaluation.kept import Kept
from cape.geometry import Crop
from cape.modalities import MissingModalityError
from cape.models.capellm.checkpoint import CapeLlmCheckpoint
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import SupportDefinition

KEPT_TOKENS = 2**30
"""Bytes of image tokens that are kept: 1000 images of the published model, or 30,000 of the small one."""

BATCH = 4
"""Images whose keypoints are asked for at a time."""


class CapeLlmEstimator:
    """An `Estimator` that runs a CapeLLM; support images are not looked at.

    Args:
        checkpoint: as `load_capellm` returns it.
        device: where the model runs.
        readout: how digits become a coordinate.
    """

    def __init__(
        self, checkpoint: CapeLlmCheckpoint, device: torch.device | str = "cpu", readout: Readout = "greedy"
    ) -> None:
        self._predictor = CapeLlmPredictor(checkpoint.model, checkpoint.tokenizer, device)
        self._readout = readout
        self._tokens: Kept[Tensor] = Kept(KEPT_TOKENS, lambda tokens: tokens.nbytes)
        configuration = checkpoint.model.configuration
        weights = "" if configuration.trained else ", random weights"
        self._name = (
            f"{checkpoint.source.name}: capellm, {configuration.vision.name}, {configuration.language.kind}, "
            f"{readout}, PyTorch float32{weights}"
        )

    @property
    def name(self) -> str:
        """Checkpoint, system, towers, readout, precision."""
        return self._name

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """See `Estimator.estimate`."""
        if support.modalities and "text" not in support.modalities:
            raise MissingModalityError("capellm needs texts; the support has none to use")
        configuration, count = self._predictor.model.configuration, len(support.keypoints)
        prompts = self._predictor.prompts(support)
        poses = []
        for start in range(0, len(queries), BATCH):
            some = queries[start : start + BATCH]
            crops = [
                Crop.around(
                    *(query.box.x, query.box.y, query.box.width, query.box.height),
                    size=configuration.vision.image_size,
                    padding=configuration.box_padding,
                )
                for query in some
            ]
            located = self._predictor.locate(self._encode(some, crops), prompts, self._readout)
            keypoints = located.keypoints.reshape(len(some), count, 2).numpy()
            scores = located.scores.reshape(len(some), count).numpy()
            poses += [
                EstimatedPose(crop.to_image(keypoints[row]), scores[row], np.ones(count, np.bool_))
                for row, crop in enumerate(crops)
            ]
        return EpisodeAnswer(tuple(poses), ("text",))

    def close(self) -> None:
        """Nothing to free that Python does not."""

    def _encode(self, queries: Sequence[QueryObject], crops: Sequence[Crop]) -> Tensor:
        """Image tokens [B, N, D]; those of objects that were asked for before are there already."""
        found = []
        for query, crop in zip(queries, crops, strict=True):
            tokens = self._tokens.get(query.object_id)
            if tokens is None:
                tokens = self._predictor.encode([crop.extract(query.image)])[0]
                self._tokens.put(query.object_id, tokens)
            found.append(tokens)
        return torch.stack(found)
