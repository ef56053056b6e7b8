"""Multi-head attention, written out: every product is a matrix product in the exported graph as well.

Training has no use for the weights and may fuse the products: the same numbers up to rounding, sooner.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -1e4
"""Added to the score of a masked key: exp(−1e4) is 0 in float32, and the number itself fits float16."""


def additive_mask(valid: Tensor) -> Tensor:
    """Turns validity (1 or 0) into what is added to attention scores (0 or `MASKED`), same shape."""
    return (1.0 - valid) * MASKED


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with widths of their own for queries, keys, values and output.

    Args:
        width: inner width, shared by all heads; also the width of the output.
        heads: number of heads.
        query_width, key_width, value_width: widths of the inputs; `width` where not given.
        dropout: share of attention weights dropped in training.

    Attributes:
        fused: use torch's fused kernel and return no weights; for training, never for export.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        query_width: int | None = None,
        key_width: int | None = None,
        value_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1.0 / math.sqrt(width // heads)
        self.query = nn.Linear(query_width or width, width)
        self.key = nn.Linear(key_width or width, width)
        self.value = nn.Linear(value_width or width, width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.fused = False

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attends.

        Args:
            query: [B, N, query_width].
            key: [B, M, key_width].
            value: [B, M, value_width].
            mask: [B, M], added to the scores of each key; None: all keys are valid.

        Returns:
            The output [B, N, width] and the attention weights [B, heads, N, M]; [B, heads, N, 0] where fused.
        """
        if self.fused:
            return self._fused(query, key, value, mask)
        queries = self._split(self.query(query)) * self.scale
        scores = queries @ self._split(self.key(key)).transpose(-2, -1)
        if mask is not None:
            scores = scores + mask[:, None, None, :]
        weights = scores.softmax(dim=-1)
        mixed = self.dropout(weights) @ self._split(self.value(value))
        return self.output(mixed.transpose(1, 2).flatten(2)), weights

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        queries = self._split(self.query(query))
        mixed = F.scaled_dot_product_attention(
            queries,
            self._split(self.key(key)),
            self._split(self.value(value)),
            attn_mask=None if mask is None else mask[:, None, None, :].to(queries.dtype),
            dropout_p=self.dropout.p if self.training else 0.0,
            scale=self.scale,
        )
        return self.output(mixed.transpose(1, 2).flatten(2)), queries[..., :0]
