"""A model and its losses as one module, so that one forward pass is what devices share out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from cape.data.episodes import EpisodeBatch
from cape.models.attention import MultiHeadAttention
from cape.models.system import Pose, System
from cape.training.configuration import AugmentationConfiguration, Initialisation, LossWeights
from cape.training.losses import Losses, PathwayPrediction, pose_losses
from cape.training.photometric import photometric_jitter
from cape.training.standardisation import Standardisation


class TrainedModel(nn.Module):
    """Episodes in, losses out.

    Args:
        system: the model.
        weights: of the loss terms.
        train_image, train_text: whether the towers are trained; a frozen one stays in evaluation mode. A trained
            backbone's batch norms keep their running statistics: batches are small.
        frozen_blocks: of a trained backbone; episodes then hold pictures, or what these blocks make of them.
        support_gradient: whether gradients reach the backbone through support images as well.
        autocast: type of matrix products; None: that of the weights.
        standardisation: of a frozen backbone's features; None: the head reads them as they are.
        augmentation: its photometric part is applied to images in training mode.
    """

    def __init__(
        self,
        system: System,
        weights: LossWeights,
        *,
        train_image: bool = False,
        train_text: bool = False,
        frozen_blocks: int = 0,
        support_gradient: bool = True,
        autocast: torch.dtype | None = None,
        standardisation: Standardisation | None = None,
        augmentation: AugmentationConfiguration | None = None,
    ) -> None:
        super().__init__()
        self._augmentation = augmentation or AugmentationConfiguration()
        self.system = system
        self.weights = weights
        self.autocast = autocast
        self.standardisation = standardisation
        self._frozen_blocks = frozen_blocks
        self._support_gradient = support_gradient
        self._frozen: list[nn.Module] = [m for m in system.image_backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        for tower, trained in ((system.image_backbone, train_image), (system.text_encoder, train_text)):
            if tower is not None and not trained:
                tower.requires_grad_(False)
                self._frozen.append(tower)
        if frozen_blocks:
            for block in system.image_backbone.first_blocks(frozen_blocks):
                block.requires_grad_(False)
        for module in system.modules():
            if isinstance(module, MultiHeadAttention):
                module.fused = True
        # Images arrive with the channels of a pixel side by side: kernels in that layout need no copies.
        for parameter in system.image_backbone.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> TrainedModel:
        """Training mode, but for frozen towers and batch norms: neither dropout nor new running means."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, batch: EpisodeBatch) -> tuple[Tensor, Losses]:
        """The weighted sum of the losses (equations 8 and 9), and each of them."""
        if self.training:
            batch = self._jittered(batch)
        pose, mask = self.estimate(batch)
        pathways = tuple(
            PathwayPrediction(
                keypoints=output.keypoints,
                similarity=output.proposals.similarity,
                mean=output.proposals.mean,
                valid=mask[:, index] * batch.target_visible,
            )
            for index, output in enumerate(pose.pathways)
        )
        size = self.system.configuration.head.similarity_size
        losses = pose_losses(pathways, batch.target, size, self.weights.offset_normalisation, batch.partner)
        weights = self.weights
        total = (
            weights.heatmap * losses.heatmap
            + weights.offset * losses.offset
            + weights.proposal * losses.proposal
            + weights.consistency * losses.consistency
            + weights.matching * losses.matching
            + weights.contrast * losses.contrast
            + weights.mirror * losses.mirror
        )
        return total, losses

    def _jittered(self, batch: EpisodeBatch) -> EpisodeBatch:
        """The batch with other colours and textures; features stay as they are."""
        jitter = self._augmentation
        if batch.query.dtype != torch.uint8 or not (jitter.photometric or jitter.random_convolution):
            return batch
        change = partial(photometric_jitter, strength=jitter.photometric, random_convolution=jitter.random_convolution)
        support = batch.support
        if support is not None:
            support = change(support.flatten(0, 1)).unflatten(0, support.shape[:2])
        return replace(batch, query=change(batch.query), support=support)

    def estimate(self, batch: EpisodeBatch) -> tuple[Pose, Tensor]:
        """The model's answer and which keypoints each pathway knows, [B, P, K]."""
        device = batch.query.device.type
        with torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            inputs: dict[str, Tensor] = {}
            query = self.features(batch.query)
            if self.system.configuration.reads_images:
                inputs["features"] = self._support_features(batch, query)
                inputs |= {"keypoints": batch.keypoints, "visible": batch.visible}
            if self.system.configuration.reads_text:
                inputs["embeddings"] = self._embeddings(batch)
            if batch.query_index is not None:
                query = query[batch.query_index]
            tokens, mask = self.system.fuse_support(**inputs)
            return self.system.decode_pose(query, tokens, mask, batch.adjacency), mask

    def _support_features(self, batch: EpisodeBatch, query: Tensor) -> Tensor:
        """Features [B, S, C, F, F] of the support images, which may be among the queries."""
        if batch.support is None:
            assert batch.support_index is not None, "episodes share images or have their own"
            return (query if self._support_gradient else query.detach())[batch.support_index]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._support_gradient):
            features = self.features(batch.support.flatten(0, 1))
        return features.unflatten(0, batch.support.shape[:2])

    def features(self, images: Tensor) -> Tensor:
        """Bytes go through the backbone, maps of its frozen blocks through the others; features are features."""
        features = images
        if self._frozen_blocks:
            backbone = self.system.image_backbone
            if images.dtype == torch.uint8:
                with torch.no_grad():
                    images = backbone.begin(images, self._frozen_blocks)
            features = backbone.finish(images.contiguous(memory_format=torch.channels_last), self._frozen_blocks)
        elif images.dtype == torch.uint8:
            features = self.system.encode_image(images)
        return features if self.standardisation is None else self.standardisation(features)

    def _embeddings(self, batch: EpisodeBatch) -> Tensor:
        assert batch.texts is not None, "this system reads text"
        if batch.texts.is_floating_point():
            return batch.texts
        # Token ids count from 1, and 0 is no token: see TextBank.tokenised.
        return self.system.encode_text((batch.texts - 1).clamp(min=0), (batch.texts > 0).long())


def initialise_head(system: System, kind: Initialisation = "published") -> None:
    """Initialises the head; either way it has no offset from the proposals to begin with.

    Args:
        system: the model; its towers are left as they are.
        kind: 'published': Xavier for every matrix, as in the public code; 'small': PyTorch's own, half as large.
    """
    towers = {
        id(parameter)
        for tower in (system.image_backbone, system.text_encoder)
        if tower is not None
        for parameter in tower.parameters()
    }
    for module in system.modules():
        if isinstance(module, nn.Linear) and id(module.weight) not in towers:
            if kind == "published":
                nn.init.xavier_uniform_(module.weight)
            else:
                module.reset_parameters()
    for branch in system.kpt_branch:
        assert isinstance(branch, nn.Sequential)
        last = branch[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
