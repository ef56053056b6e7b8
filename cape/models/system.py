"""A whole model, put together from its configuration: four components that are trained, exported and served alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cape.configuration import SystemConfiguration
from cape.models.backbone import ImageBackbone
from cape.models.cmaa_fusion import CrossModalAlignmentAttention
from cape.models.decoder import keypoint_branch
from cape.models.dlf_combination import pathway_weights
from cape.models.pooling import KeypointPooling, interpolation_matrix
from cape.models.proposals import ProposalGenerator
from cape.models.text import TextEncoder
from cape.models.transformer import KeypointTransformer, PathwayOutput

SWIN_CLASSIFIER_PARAMETERS = 768 * 1000 + 1000
"""The 1000-class head that the public code keeps in its backbone and never runs; Table 5 counts it."""


class Pose(NamedTuple):
    """The answer for a batch of queries.

    Attributes:
        keypoints: [B, K, 2] crop coordinates 0–1.
        scores: [B, K], 0–1: share of the similarity map's mass in the 3×3 cells around its peak; 0 for
            keypoints that the support does not describe.
        similarity: [B, K, H, W] raw similarity maps, averaged over the pathways that count.
        proposals: [B, K, 2] where the decoder started.
        pathways: what each pathway said, for losses and explanations.
    """

    keypoints: Tensor
    scores: Tensor
    similarity: Tensor
    proposals: Tensor
    pathways: tuple[PathwayOutput, ...]


class System(nn.Module):
    """A CAPE model.

    A support set is encoded once, by `encode_image`, `encode_text` and `fuse_support`; each query then costs
    `encode_image` and `decode_pose`. Every method is free of loops over the batch and of control flow that
    depends on data: what is trained is what is exported.
    """

    def __init__(self, configuration: SystemConfiguration) -> None:
        super().__init__()
        self.configuration = configuration
        head, backbone = configuration.head, configuration.backbone
        self.image_backbone = ImageBackbone(backbone)
        self.text_encoder = TextEncoder(configuration.text) if configuration.text else None
        # The 1×1 convolution of the published models.
        self.input_proj = nn.Linear(backbone.channels, head.width)
        self.text_proj = nn.Linear(configuration.text.dimension, head.width) if configuration.text else None
        shares_input_proj = configuration.system == "flf" and configuration.projections
        pools_with_own_projection = configuration.reads_images and not shares_input_proj
        self.query_proj = nn.Linear(backbone.channels, head.width) if pools_with_own_projection else None
        self.pooling = (
            KeypointPooling(backbone.feature_size, head.similarity_size) if configuration.reads_images else None
        )
        self.fusion = (
            CrossModalAlignmentAttention(
                head.width,
                projections=configuration.projections,
                tolerates_absence=configuration.modality_dropout,
            )
            if configuration.system == "flf"
            else None
        )
        self.transformers = nn.ModuleList(KeypointTransformer(head) for _ in range(configuration.pathways))
        self.kpt_branch = nn.ModuleList(keypoint_branch(head.width) for _ in range(head.decoder_layers))
        resize = interpolation_matrix(backbone.feature_size, head.similarity_size)
        self.upsampling: Tensor  # [H·W, F·F]: bilinear along both axes, as one matrix
        self.register_buffer("upsampling", torch.kron(resize, resize), persistent=False)

    def encode_image(self, image: Tensor) -> Tensor:
        """Crops uint8 [B, H, W, 3] → features [B, C, F, F]."""
        return self.image_backbone(image)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask int64 [B, K, T] → unit vectors [B, K, D]; 0 where there is no text."""
        assert self.text_encoder is not None, "this system reads no text"
        return self.text_encoder(input_ids, attention_mask)

    def _visual_tokens(self, features: Tensor, keypoints: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        assert self.pooling is not None
        if self.query_proj is not None:
            tokens = self.query_proj(self.pooling(features, keypoints, visible))
        else:
            # Projecting 64 cells before pooling is cheaper than it looks and shares the query's projection.
            projected = self.input_proj(features.movedim(2, -1)).movedim(-1, 2)
            tokens = self.pooling(projected, keypoints, visible)
        every_shot = self.configuration.shot_visibility == "all"
        return tokens, visible.amin(1) if every_shot else visible.amax(1)

    def _text_tokens(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        assert self.text_proj is not None
        # Embeddings have unit length; rows of keypoints without text are 0.
        valid = (embeddings.square().sum(-1) > 0.25).to(embeddings.dtype)
        return self.text_proj(embeddings), valid

    def fuse_support(
        self,
        features: Tensor | None = None,
        keypoints: Tensor | None = None,
        visible: Tensor | None = None,
        embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Makes keypoint tokens of a support set. Nothing here depends on a query.

        Args:
            features: [B, S, C, F, F] of the support images; for systems that read images.
            keypoints: [B, S, K, 2] in crop coordinates 0–1.
            visible: [B, S, K], 1 or 0; 0 throughout where there is no image.
            embeddings: [B, K, D]; for systems that read text.

        Returns:
            support_tokens [B, P, K, width] and mask [B, P, K], 1 where a pathway knows the keypoint. P is 2 for
            decision-level fusion (image pathway first), else 1.
        """
        pathways: list[tuple[Tensor, Tensor]] = []
        if self.configuration.reads_images:
            assert features is not None and keypoints is not None and visible is not None
            pathways.append(self._visual_tokens(features, keypoints, visible))
        if self.configuration.reads_text:
            assert embeddings is not None
            pathways.append(self._text_tokens(embeddings))
        if self.fusion is not None:
            (image, image_valid), (text, text_valid) = pathways
            if self.configuration.leading == "image":
                pathways = [self.fusion(image, text, image_valid, text_valid)]
            else:
                pathways = [self.fusion(text, image, text_valid, image_valid)]
        tokens = torch.stack([tokens for tokens, _ in pathways], dim=1)
        mask = torch.stack([valid for _, valid in pathways], dim=1)
        return tokens, mask

    def decode_pose(self, features: Tensor, support_tokens: Tensor, mask: Tensor, adjacency: Tensor) -> Pose:
        """Locates the keypoints of a support set in query images.

        Args:
            features: [B, C, F, F] of the queries.
            support_tokens: [B, P, K, width] and
            mask: [B, P, K], from `fuse_support`.
            adjacency: [B, K, K], symmetric, 1 where two keypoints are joined.
        """
        image = self.input_proj(features.flatten(2).transpose(1, 2))
        if self.configuration.backbone.feature_size != self.configuration.head.similarity_size:
            # Project 8×8 cells, then resize: the same numbers as resizing first, at a quarter of the work.
            image = self.upsampling @ image
        outputs = tuple(
            transformer(image, support_tokens[:, p], mask[:, p], adjacency, self.kpt_branch)
            for p, transformer in enumerate(self.transformers)
        )
        confidence = torch.stack([output.proposals.confidence for output in outputs], dim=1) * mask
        weight = self._pathway_weights(outputs, confidence, mask)

        def combined(values: list[Tensor]) -> Tensor:
            if len(values) == 1:
                return values[0]
            return (torch.stack(values, dim=1) * weight.unsqueeze(-1)).sum(1)

        side = self.configuration.head.similarity_size
        return Pose(
            keypoints=combined([output.keypoints[-1] for output in outputs]),
            scores=(confidence * weight).sum(1),
            similarity=combined([output.proposals.similarity for output in outputs]).unflatten(-1, (side, side)),
            proposals=combined([output.proposals.peak for output in outputs]),
            pathways=outputs,
        )

    def _pathway_weights(self, outputs: tuple[PathwayOutput, ...], confidence: Tensor, mask: Tensor) -> Tensor:
        """Weights [B, P, K] of the pathways' answers."""
        if len(outputs) == 1:
            return torch.ones_like(mask)
        generator = self.transformers[0].proposal_generator
        assert isinstance(generator, ProposalGenerator)
        return pathway_weights(
            self.configuration.combination,
            torch.stack([output.keypoints[-1] for output in outputs], dim=1),
            torch.stack([output.proposals.similarity for output in outputs], dim=1),
            confidence,
            mask,
            generator.cells,
            self.configuration.agreement_radius,
        )

    def forward(
        self,
        query: Tensor,
        adjacency: Tensor,
        support: Tensor | None = None,
        keypoints: Tensor | None = None,
        visible: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Pose:
        """Everything at once: queries uint8 [B, H, W, 3], support images uint8 [B, S, H, W, 3], texts [B, K, T]."""
        features = embeddings = None
        if support is not None:
            features = self.encode_image(support.flatten(0, 1)).unflatten(0, support.shape[:2])
        if input_ids is not None and attention_mask is not None:
            embeddings = self.encode_text(input_ids, attention_mask)
        tokens, mask = self.fuse_support(features, keypoints, visible, embeddings)
        return self.decode_pose(self.encode_image(query), tokens, mask, adjacency)


def component_modules(system: System) -> dict[str, tuple[str, ...]]:
    """Names of the submodules that each component runs; a projection that two share is in both."""
    shares_projection = system.pooling is not None and system.query_proj is None
    return {
        "image_backbone": ("image_backbone",),
        "text_encoder": ("text_encoder",),
        "support_fusion": ("text_proj", "input_proj" if shares_projection else "query_proj", "pooling", "fusion"),
        "pose_decoder": ("input_proj", "transformers", "kpt_branch"),
    }


def parameter_counts(system: System) -> dict[str, int]:
    """Parameters that each component uses; those of a projection that two share count in both."""
    children = dict(system.named_children())
    return {
        role: sum(p.numel() for name in names if name in children for p in children[name].parameters())
        for role, names in component_modules(system).items()
    }
