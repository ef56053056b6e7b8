"""The text encoder as a component: token ids in, unit vectors out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
)

from cape.configuration import Pooling, TextConfiguration
from cape.models.attention import additive_mask

if TYPE_CHECKING:
    from transformers import GteModel


def _tower(configuration: TextConfiguration) -> nn.Module:
    # Eager attention takes our additive mask as it is, and exports to plain matrix products.
    arguments = {**configuration.architecture, "attn_implementation": "eager"}
    if configuration.kind == "gte":
        # Newer than the other two: a model without gte also runs with an older transformers.
        from transformers import GteConfig, GteModel

        factor = arguments.pop("ntk_factor", 1.0)
        tower = GteModel(GteConfig(**arguments))
        _scale_rotary_embedding(tower, factor)
        return tower
    if configuration.kind == "clip":
        return CLIPTextModelWithProjection(CLIPTextConfig(**arguments))
    return BertModel(BertConfig(**arguments), add_pooling_layer=False)


def _scale_rotary_embedding(tower: GteModel, factor: float) -> None:
    """Fixed NTK scaling, which transformers does not have: θ·factor as base, and all frequencies ÷ factor^(2/d).

    The original gte-base-en-v1.5 applies it at every length, to short texts too.
    """
    rotary = tower.rotary_emb
    width = 2 * rotary.inv_freq.shape[0]
    exponent = torch.arange(0, width, 2, dtype=torch.float32) / width
    theta = (rotary.config.rope_parameters or {}).get("rope_theta")
    assert theta is not None, "GteConfig fills it in"
    base = factor * theta
    rotary.inv_freq.copy_(1.0 / base**exponent / factor ** (2 / width))


def _pooled(states: Tensor, valid: Tensor, pooling: Pooling) -> Tensor:
    """Token states [N, T, D] and validity [N, T] → one vector a text [N, D], as sentence-transformers pools them.

    Texts begin at the first token and are padded after the last.
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "max":
        return (states + additive_mask(valid).unsqueeze(-1)).amax(1)
    place = valid.cumsum(1) * valid
    if pooling == "last":
        weights = (place == valid.sum(1, keepdim=True)).to(states.dtype) * valid
    else:
        weights = place if pooling == "weighted_mean" else valid
    return (states * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True).clamp(min=1.0)


class TextEncoder(nn.Module):
    """Encodes keypoint texts."""

    def __init__(self, configuration: TextConfiguration) -> None:
        super().__init__()
        self.kind = configuration.kind
        self.pooling = configuration.pooling
        self.tower = _tower(configuration)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encodes texts.

        Args:
            input_ids: int64 [B, K, T].
            attention_mask: int64 [B, K, T], 1 on tokens, 0 on padding; all 0 where there is no text.

        Returns:
            float [B, K, D], unit length; 0 where there is no text.
        """
        ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
        if self.pooling == "projection":
            vectors = self.tower(input_ids=ids, attention_mask=mask).text_embeds
        else:
            valid = mask.to(torch.float32)
            states = self.tower(input_ids=ids, attention_mask=additive_mask(valid)[:, None, None, :]).last_hidden_state
            vectors = _pooled(states, valid, self.pooling)
        present = (mask.sum(-1, keepdim=True) > 0).to(vectors.dtype)
        unit = vectors / vectors.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
        return (unit * present).unflatten(0, input_ids.shape[:2])
