"""One pathway: encoder, proposal generator and decoder over one set of keypoint tokens."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from cape.configuration import HeadConfiguration
from cape.models.decoder import Decoder
from cape.models.encoder import Encoder
from cape.models.positions import map_encoding
from cape.models.proposals import ProposalGenerator, Proposals


class PathwayOutput(NamedTuple):
    """What one pathway says.

    Attributes:
        keypoints: [layers, B, K, 2] coordinates after each decoder layer, 0–1.
        proposals: first guesses and similarity.
        attention: [B, heads, K, N] cross-attention of the last decoder layer.
    """

    keypoints: Tensor
    proposals: Proposals
    attention: Tensor


class KeypointTransformer(nn.Module):
    """Matches keypoint tokens with a query image and refines the matches."""

    def __init__(self, configuration: HeadConfiguration) -> None:
        super().__init__()
        shape = (configuration.width, configuration.heads, configuration.feedforward)
        self.encoder = Encoder(configuration.encoder_layers, *shape, configuration.dropout)
        self.proposal_generator = ProposalGenerator(
            configuration.width, configuration.gate_width, configuration.similarity_size
        )
        self.decoder = Decoder(configuration.decoder_layers, *shape, configuration.graph, configuration.dropout)
        self.positions: Tensor
        self.register_buffer(
            "positions", map_encoding(configuration.similarity_size, configuration.width), persistent=False
        )

    def forward(
        self, image: Tensor, keypoints: Tensor, valid: Tensor, adjacency: Tensor, branches: nn.ModuleList
    ) -> PathwayOutput:
        """Locates keypoints.

        Args:
            image: [B, N, width] projected query image, cells row by row.
            keypoints: [B, K, width] support tokens.
            valid: [B, K], 1 or 0.
            adjacency: [B, K, K], 1 where two keypoints are joined.
            branches: one `keypoint_branch` per decoder layer.
        """
        image, keypoints = self.encoder(image, keypoints, self.positions, valid)
        proposals = self.proposal_generator(image, keypoints)
        decoded = self.decoder(keypoints, image, self.positions, proposals.peak, adjacency, valid, branches)
        return PathwayOutput(decoded.keypoints, proposals, decoded.attention)
