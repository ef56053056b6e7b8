"""The frozen vision tower of a run: its patches from a cache, and of the objects that are looked at."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch

from cape.data.dataset import KeypointDataset
from cape.models.capellm.model import CapeLlm
from cape.training.capellm.configuration import CapeLlmSource, CapeLlmTrainingConfiguration
from cape.training.encoders import Encoder
from cape.training.features import FeatureCache, FeatureRecipe, StepProgress, build_feature_cache


def patch_encoder(model: CapeLlm) -> Encoder:
    """The vision tower as a function from crops uint8 [B, S, S, 3] to patches float16 [B, C, G, G]."""

    def encode(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        was_training = model.vision.training
        with torch.inference_mode():
            patches = model.vision.eval()(torch.from_numpy(images).to(model.device))
        model.vision.train(was_training)
        return np.asarray(patches.half().cpu().numpy())

    return encode


def cached_patches(
    model: CapeLlm,
    dataset: KeypointDataset,
    source: CapeLlmSource,
    configuration: CapeLlmTrainingConfiguration,
    progress: StepProgress,
) -> FeatureCache:
    """Finds the patches of a data set, or computes those that are missing; as for the other systems."""
    vision = configuration.model.vision
    digest = hashlib.sha256(vision.model_copy(update={"merge": 1}).model_dump_json().encode())
    for key, value in sorted(model.vision.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    recipe = FeatureRecipe(
        source=source.data.model_dump(mode="json"),
        copies=source.copies,
        jitter=configuration.augmentation.jitter,
        size=vision.image_size,
        padding=configuration.model.box_padding,
        seed=configuration.seed,
        backbone=f"capellm {digest.hexdigest()}",
    )
    encoder = patch_encoder(model)
    return build_feature_cache(dataset, recipe, lambda _: encoder, configuration.cache_folder, progress)
