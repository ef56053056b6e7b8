"""A model and its losses as one module, so that one forward pass is what devices share out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cape.data.episodes import EpisodeBatch
from cape.models.attention import MultiHeadAttention
from cape.models.system import Pose, System
from cape.training.configuration import Initialisation, LossWeights
from cape.training.losses import Losses, PathwayPrediction, pose_losses
from cape.training.standardisation import Standardisation


class TrainedModel(nn.Module):
    """Episodes in, losses out.

    Args:
        system: the model.
        weights: of the loss terms.
        train_image, train_text: whether the towers are trained; a frozen one stays in evaluation mode.
        autocast: type of matrix products; None: that of the weights.
        standardisation: of a frozen backbone's features; None: the head reads them as they are.
    """

    def __init__(
        self,
        system: System,
        weights: LossWeights,
        *,
        train_image: bool = False,
        train_text: bool = False,
        autocast: torch.dtype | None = None,
        standardisation: Standardisation | None = None,
    ) -> None:
        super().__init__()
        self.system = system
        self.weights = weights
        self.autocast = autocast
        self.standardisation = standardisation
        self._frozen: list[nn.Module] = []
        for tower, trained in ((system.image_backbone, train_image), (system.text_encoder, train_text)):
            if tower is not None and not trained:
                tower.requires_grad_(False)
                self._frozen.append(tower)
        for module in system.modules():
            if isinstance(module, MultiHeadAttention):
                module.fused = True

    def train(self, mode: bool = True) -> TrainedModel:
        """Training mode, but for frozen towers: neither dropout nor running means."""
        super().train(mode)
        for tower in self._frozen:
            tower.eval()
        return self

    def forward(self, batch: EpisodeBatch) -> tuple[Tensor, Losses]:
        """The weighted sum of the losses (equations 8 and 9), and each of them."""
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
        losses = pose_losses(pathways, batch.target, size, self.weights.offset_normalisation)
        weights = self.weights
        total = (
            weights.heatmap * losses.heatmap
            + weights.offset * losses.offset
            + weights.proposal * losses.proposal
            + weights.consistency * losses.consistency
            + weights.matching * losses.matching
        )
        return total, losses

    def estimate(self, batch: EpisodeBatch) -> tuple[Pose, Tensor]:
        """The model's answer and which keypoints each pathway knows, [B, P, K]."""
        device = batch.query.device.type
        with torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            inputs: dict[str, Tensor] = {}
            if self.system.configuration.reads_images:
                inputs["features"] = self._features(batch.support.flatten(0, 1)).unflatten(0, batch.support.shape[:2])
                inputs |= {"keypoints": batch.keypoints, "visible": batch.visible}
            if self.system.configuration.reads_text:
                inputs["embeddings"] = self._embeddings(batch)
            tokens, mask = self.system.fuse_support(**inputs)
            return self.system.decode_pose(self._features(batch.query), tokens, mask, batch.adjacency), mask

    def _features(self, images: Tensor) -> Tensor:
        """Bytes go through the backbone; features are features already."""
        features = self.system.encode_image(images) if images.dtype == torch.uint8 else images
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
