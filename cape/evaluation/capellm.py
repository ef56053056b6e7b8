"""Predictions of CapeLLM, in PyTorch or by a vLLM server, from names and descriptions alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cape.capellm.configuration import CapeLlmConfiguration, Readout
from cape.capellm.prompts import Prompts
from cape.evaluation.estimator import EpisodeAnswer, EstimatedPose, EstimationError, QueryObject
from cape.evaluation.kept import Kept
from cape.geometry import Crop
from cape.modalities import MissingModalityError
from cape.models.capellm.checkpoint import CapeLlmCheckpoint
from cape.models.capellm.decoding import Located
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.models.capellm.vllm import VllmError
from cape.support import SupportDefinition

KEPT_TOKENS = 2**30
"""Bytes of image tokens to cache: 1000 images of the published model, or 30,000 of the small one."""

BATCH = 4
"""Images per batch."""


class KeypointPredictor(Protocol):
    """Common interface of `CapeLlmPredictor` and `VllmPredictor`."""

    def prompts(self, support: SupportDefinition) -> Prompts:
        """Tokenises the texts of a support."""

    def encode(self, crops: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Encodes crops, uint8 [S, S, 3], to image tokens [B, N, D]."""

    def locate(self, image_tokens: Tensor, prompts: Prompts, readout: Readout = "greedy") -> Located:
        """Finds all keypoints in B crops, ordered by crop."""


def checkpoint_estimator(
    checkpoint: CapeLlmCheckpoint, device: torch.device | str = "cpu", readout: Readout = "greedy"
) -> CapeLlmEstimator:
    """Makes an estimator from a checkpoint that `load_capellm` returned."""
    predictor = CapeLlmPredictor(checkpoint.model, checkpoint.tokenizer, device)
    configuration = checkpoint.model.configuration
    return CapeLlmEstimator(predictor, configuration, f"{checkpoint.source.name}: ", "PyTorch float32", readout)


class CapeLlmEstimator:
    """An `Estimator` that runs CapeLLM. Ignores support images.

    Args:
        predictor: makes the predictions.
        configuration: of the model.
        source, engine: where the weights come from and what runs them; part of the estimator's name.
        readout: how digits are turned into a coordinate.
    """

    def __init__(
        self,
        predictor: KeypointPredictor,
        configuration: CapeLlmConfiguration,
        source: str,
        engine: str,
        readout: Readout = "greedy",
    ) -> None:
        self._predictor = predictor
        self._configuration = configuration
        self._readout = readout
        self._tokens: Kept[Tensor] = Kept(KEPT_TOKENS, lambda tokens: tokens.nbytes)
        weights = "" if configuration.trained else ", random weights"
        self._name = (
            f"{source}capellm, {configuration.vision.name}, {configuration.language.kind}, {readout}, {engine}{weights}"
        )

    @property
    def name(self) -> str:
        """Checkpoint, system, encoders, readout, precision."""
        return self._name

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """See `Estimator.estimate`."""
        if support.modalities and "text" not in support.modalities:
            raise MissingModalityError("capellm needs texts; the support has none to use")
        configuration, count = self._configuration, len(support.keypoints)
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
            try:
                located = self._predictor.locate(self._encode(some, crops), prompts, self._readout)
            except VllmError as error:
                raise EstimationError(str(error)) from None
            keypoints = located.keypoints.reshape(len(some), count, 2).numpy()
            scores = located.scores.reshape(len(some), count).numpy()
            poses += [
                EstimatedPose(crop.to_image(keypoints[row]), scores[row], np.ones(count, np.bool_))
                for row, crop in enumerate(crops)
            ]
        return EpisodeAnswer(tuple(poses), ("text",))

    def close(self) -> None:
        """Does nothing: Python frees the model."""

    def _encode(self, queries: Sequence[QueryObject], crops: Sequence[Crop]) -> Tensor:
        """Image tokens [B, N, D], cached by object."""
        found = []
        for query, crop in zip(queries, crops, strict=True):
            tokens = self._tokens.get(query.object_id)
            if tokens is None:
                tokens = self._predictor.encode([crop.extract(query.image)])[0]
                self._tokens.put(query.object_id, tokens)
            found.append(tokens)
        return torch.stack(found)
