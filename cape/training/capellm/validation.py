"""Scores of a CapeLLM in training on objects that it does not learn from: queries alone, for it needs no support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cape.data.crops import crop_object
from cape.data.dataset import DatasetError, KeypointDataset
from cape.evaluation.metrics import Scores, mean_scores, score_pair
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import SupportDefinition
from cape.training.capellm.configuration import CapeLlmValidationSource
from cape.training.encoders import Encoder


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    """A crop uint8 [S, S, 3] or its patches float16 [C, G, G], and where its visible keypoints are."""

    image: npt.NDArray[np.uint8] | npt.NDArray[np.float16]
    keypoints: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]


class CapeLlmValidation:
    """Some objects of every category, in memory.

    Args:
        dataset: the data.
        source: how many objects.
        size: side of the crops, in pixels.
        padding: side of a crop ÷ longer side of the box.
        encoder: of a frozen vision tower; None: the model encodes crops each time.

    Raises:
        DatasetError: no object can be scored.
    """

    def __init__(
        self,
        dataset: KeypointDataset,
        source: CapeLlmValidationSource,
        *,
        size: int,
        padding: float,
        encoder: Encoder | None,
    ) -> None:
        self.name = dataset.name
        self._padding = padding
        self._categories: list[tuple[SupportDefinition, list[_Object]]] = []
        for index, category in enumerate(dataset.categories):
            objects = []
            for object_id in dataset.objects(index)[: source.objects]:
                try:
                    crop = crop_object(dataset.load(object_id), size=size, padding=padding)
                except DatasetError:
                    continue
                if crop.visible.any():
                    image = crop.image if encoder is None else encoder(crop.image[np.newaxis])[0]
                    objects.append(_Object(image, crop.keypoints, crop.visible))
            if objects:
                self._categories.append((SupportDefinition(category.name, category.keypoints), objects))
        if not self._categories:
            raise DatasetError(f"{dataset.name}: no object can be scored")

    def score(self, predictor: CapeLlmPredictor) -> Scores:
        """Mean over objects; leaves the model in evaluation mode."""
        model = predictor.model.eval()
        scores = []
        with torch.inference_mode():
            for support, objects in self._categories:
                images = torch.from_numpy(np.stack([one.image for one in objects])).to(model.device)
                patches = model.vision(images) if images.dtype == torch.uint8 else images
                tokens = model.projection(patches.to(model.projection.linear.weight.dtype))
                located = predictor.locate(tokens, predictor.prompts(support))
                keypoints = located.keypoints.reshape(len(objects), -1, 2).numpy()
                for one, found in zip(objects, keypoints, strict=True):
                    # A crop's side is `padding` times the longer side of the box, which errors are measured by.
                    errors = np.linalg.norm(found - one.keypoints, axis=1) * self._padding
                    scores.append(score_pair(errors[one.visible], 1.0))
        return mean_scores(scores)
