"""The graph decoder: refines proposals layer by layer along the skeleton."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cape.models.attention import MultiHeadAttention, additive_mask
from cape.models.positions import sine_encoding
from cape.models.precision import full_precision


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """log(x / (1 − x)), both clamped from below at `eps`, as published."""
    return torch.log(x.clamp(eps, 1.0) / (1 - x).clamp(eps, 1.0))


def normalised_adjacency(adjacency: Tensor, valid: Tensor) -> Tensor:
    """Skeleton matrix over valid keypoints, each row divided by its sum.

    Args:
        adjacency: [B, K, K], symmetric, 1 where two keypoints are joined.
        valid: [B, K], 1 or 0.

    Returns:
        [B, K, K]; rows of keypoints without a valid neighbour are 0.
    """
    joined = adjacency * valid.unsqueeze(-1) * valid.unsqueeze(-2)
    degree = joined.sum(dim=-1, keepdim=True)
    return joined / torch.where(degree > 0, degree, torch.ones_like(degree))


class GraphConvolution(nn.Module):
    """Mixes what a keypoint says of itself with what its neighbours say, then ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own = nn.Linear(inputs, outputs)
        self.neighbours = nn.Linear(inputs, outputs)

    def forward(self, tokens: Tensor, graph: Tensor, valid: Tensor) -> Tensor:
        """Convolves tokens [B, K, inputs] over a row-normalised graph [B, K, K] into [B, K, outputs].

        The published convolution multiplies x[v] by A[v, w] and sums over v: the transposed matrix here.
        """
        return F.relu(self.own(tokens) * valid.unsqueeze(-1) + graph.transpose(-2, -1) @ self.neighbours(tokens))


class FeedForward(nn.Module):
    """Two layers, of which the first (`pre`), the second (`post`), both or none follow the skeleton."""

    def __init__(self, width: int, hidden: int, graph: str, dropout: float) -> None:
        super().__init__()
        self.first = GraphConvolution(width, hidden) if graph in ("pre", "both") else nn.Linear(width, hidden)
        self.second = GraphConvolution(hidden, width) if graph in ("post", "both") else nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, graph: Tensor, valid: Tensor) -> Tensor:
        """Maps tokens [B, K, width] to [B, K, width]."""
        first = self.first(tokens, graph, valid) if isinstance(self.first, GraphConvolution) else self.first(tokens)
        hidden = self.dropout(F.relu(first))
        if isinstance(self.second, GraphConvolution):
            return self.second(hidden, graph, valid)
        return self.second(hidden)


class DecoderLayer(nn.Module):
    """Self-attention among keypoints, cross-attention to the image, feed-forward along the skeleton; post-norm."""

    def __init__(self, width: int, heads: int, feedforward: int, graph: str, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width, heads, dropout=dropout)
        # Content and position side by side: twice the width.
        self.cross_attention = MultiHeadAttention(2 * width, heads, value_width=width, dropout=dropout)
        self.choker = nn.Linear(2 * width, width)
        self.feedforward = FeedForward(width, feedforward, graph, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        image: Tensor,
        image_keys: Tensor,
        mask: Tensor,
        graph: Tensor,
        valid: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Refines keypoint tokens.

        Args:
            tokens: [B, K, width] keypoint states.
            positions: [B, K, width] encodings of the current coordinates.
            image: [B, N, width] image tokens.
            image_keys: [B, N, 2·width], the image tokens with their positions.
            mask: [B, K], additive.
            graph: [B, K, K], row-normalised skeleton.
            valid: [B, K].

        Returns:
            New states [B, K, width] and cross-attention weights [B, heads, K, N].
        """
        placed = tokens + positions
        attended, _ = self.self_attention(placed, placed, tokens, mask)
        tokens = self.norm1(tokens + self.dropout(attended))
        attended, weights = self.cross_attention(torch.cat((tokens, positions), dim=-1), image_keys, image)
        tokens = self.norm2(tokens + self.dropout(self.choker(attended)))
        tokens = self.norm3(tokens + self.dropout(self.feedforward(tokens, graph, valid)))
        return tokens, weights


def keypoint_branch(width: int) -> nn.Sequential:
    """The MLP that reads a coordinate update [.., 2] off a keypoint state [.., width]."""
    return nn.Sequential(
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, 2),
    )


class Decoded(NamedTuple):
    """What the decoder answers.

    Attributes:
        keypoints: [layers, B, K, 2] coordinates after each layer, 0–1; the last is the prediction.
        attention: [B, heads, K, N] cross-attention weights of the last layer.
    """

    keypoints: Tensor
    attention: Tensor


class Decoder(nn.Module):
    """Stack of decoder layers with iterative coordinate refinement.

    Args:
        layers, width, heads, feedforward, graph, dropout: as in `HeadConfiguration`.
    """

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, graph: str, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward, graph, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.position_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(
        self,
        keypoints: Tensor,
        image: Tensor,
        map_positions: Tensor,
        proposals: Tensor,
        adjacency: Tensor,
        valid: Tensor,
        branches: nn.ModuleList,
    ) -> Decoded:
        """Refines proposals.

        Args:
            keypoints: [B, K, width] keypoint tokens out of the encoder.
            image: [B, N, width] image tokens out of the encoder.
            map_positions: [N, width].
            proposals: [B, K, 2].
            adjacency: [B, K, K], 0 or 1.
            valid: [B, K].
            branches: one `keypoint_branch` per layer; a parameter because pathways share them.
        """
        graph = normalised_adjacency(adjacency, valid)
        # A sample in which no keypoint is valid attends to its first one: a softmax needs something.
        nothing = (valid.sum(dim=-1, keepdim=True) == 0).to(valid.dtype)
        mask = additive_mask(torch.cat((torch.maximum(valid[:, :1], nothing), valid[:, 1:]), dim=1))
        image_keys = torch.cat((image, map_positions.expand_as(image)), dim=-1)
        coordinates, outputs, tokens = proposals, [], keypoints
        weights = tokens
        for layer, branch in zip(self.layers, branches, strict=True):
            positions = self.position_head(sine_encoding(coordinates, self.width))
            tokens, weights = layer(tokens, positions, image, image_keys, mask, graph, valid)
            with full_precision(tokens):
                base = inverse_sigmoid(coordinates)
                state = tokens.to(base.dtype)
                outputs.append(torch.sigmoid(base + branch(self.norm(state))))
                # The next layer looks at the updated place; the loss must not reach back through it.
                coordinates = torch.sigmoid(base + branch(state)).detach()
        return Decoded(torch.stack(outputs), weights)
