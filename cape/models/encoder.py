"""The encoder: image tokens and keypoint tokens attend to each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cape.models.attention import MultiHeadAttention, additive_mask


class EncoderLayer(nn.Module):
    """Post-norm layer in which the position joins the stream itself, as the published models have it."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, dropout=dropout)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Maps tokens [B, N, width] with positions [N, width] and an additive mask [B, N] to new tokens."""
        tokens = tokens + positions
        attended, _ = self.attention(tokens, tokens, tokens, mask)
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(tokens))))
        return self.norm2(tokens + self.dropout(hidden))


class Encoder(nn.Module):
    """Joint encoder over [image tokens; keypoint tokens]."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feedforward, dropout) for _ in range(layers))

    def forward(self, image: Tensor, keypoints: Tensor, positions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes.

        Args:
            image: [B, N, width] image tokens.
            keypoints: [B, K, width] keypoint tokens; their position is 0.
            positions: [N, width] encodings of the image tokens.
            valid: [B, K], 1 or 0.

        Returns:
            New image tokens [B, N, width] and keypoint tokens [B, K, width].
        """
        cells = image.shape[1]
        tokens = torch.cat((image, keypoints), dim=1)
        positions = torch.cat((positions, torch.zeros_like(keypoints[0])), dim=0)
        mask = additive_mask(torch.cat((torch.ones_like(image[..., 0]), valid), dim=1))
        for layer in self.layers:
            tokens = layer(tokens, positions, mask)
        return tokens[:, :cells], tokens[:, cells:]
