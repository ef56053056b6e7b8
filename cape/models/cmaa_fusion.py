"""Cross-Modal Alignment Attention (multi-modal paper, section 3.2.1, equations 1–4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cape.models.attention import additive_mask


class CrossModalAlignmentAttention(nn.Module):
    """Enriches the tokens of one modality with those of the other, keypoint by keypoint.

    F_fused = LayerNorm(F_lead + γ · softmax(F_lead W_Q (F_other W_K)ᵀ / √d) F_other W_V). Table 5's parameter
    count leaves room for W_Q, W_K, W_V without bias and for γ, so LayerNorm has no scale and shift of its own.

    Args:
        width: d, width of the tokens.
        projections: learned W_Q, W_K, W_V; without them the tokens themselves are compared and mixed.
        tolerates_absence: the model was trained with modalities left out: a keypoint that lacks one modality is
            described by the other. Otherwise a keypoint needs both.
    """

    def __init__(self, width: int, *, projections: bool = True, tolerates_absence: bool = False) -> None:
        super().__init__()
        self.tolerates_absence = tolerates_absence
        self.scale = 1.0 / math.sqrt(width)
        self.query = nn.Linear(width, width, bias=False) if projections else nn.Identity()
        self.key = nn.Linear(width, width, bias=False) if projections else nn.Identity()
        self.value = nn.Linear(width, width, bias=False) if projections else nn.Identity()
        self.gamma = nn.Parameter(torch.ones(()))

    def forward(
        self, leading: Tensor, other: Tensor, leading_valid: Tensor, other_valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fuses.

        Args:
            leading: [B, K, width] tokens of the modality that leads.
            other: [B, K, width] tokens of the other one.
            leading_valid, other_valid: [B, K], 1 where the modality describes the keypoint.

        Returns:
            Fused tokens [B, K, width] and their validity [B, K].
        """
        if self.tolerates_absence:
            valid = torch.maximum(leading_valid, other_valid)
            keys_valid = other_valid
            leading = torch.where(leading_valid.unsqueeze(-1) > 0, leading, other * other_valid.unsqueeze(-1))
        else:
            valid = keys_valid = leading_valid * other_valid
        scores = (self.query(leading) * self.scale) @ self.key(other).transpose(-2, -1)
        weights = (scores + additive_mask(keys_valid).unsqueeze(1)).softmax(dim=-1)
        # Where no key is valid the softmax is uniform over nothing: its mix must not count.
        mixed = (weights * keys_valid.unsqueeze(1)) @ self.value(other)
        fused = F.layer_norm(leading + self.gamma * mixed, leading.shape[-1:])
        return fused, valid
