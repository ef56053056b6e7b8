"""Swin V2 from transformers, and its attention with every constant folded for inference."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Swinv2Config, Swinv2Model
from transformers.models.swinv2.modeling_swinv2 import Swinv2Layer, Swinv2SelfAttention

from cape.configuration import BackboneConfiguration

MAX_LOGIT_SCALE = math.log(100.0)


class SwinV2(nn.Module):
    """Swin V2 without its pooling and classifier: image → last feature map."""

    def __init__(self, configuration: BackboneConfiguration) -> None:
        super().__init__()
        self.size = configuration.feature_size
        self.model = Swinv2Model(
            Swinv2Config(
                image_size=configuration.image_size,
                patch_size=4,
                embed_dim=configuration.embed_dim,
                depths=list(configuration.depths),
                num_heads=list(configuration.heads),
                window_size=configuration.window,
                mlp_ratio=4.0,
                qkv_bias=True,
                drop_path_rate=configuration.drop_path_rate,
                layer_norm_eps=1e-5,
                # 0: the position bias is computed for this window, not scaled from another.
                pretrained_window_sizes=[0] * len(configuration.depths),
            ),
            add_pooling_layer=False,
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps normalised images float [B, 3, H, W] to features [B, C, F, F], after the final LayerNorm."""
        states = self.model(pixels).last_hidden_state
        return states.transpose(1, 2).unflatten(2, (self.size, self.size))


class FoldedWindowAttention(nn.Module):
    """Cosine window attention whose position bias, shift mask and logit scale are constants.

    The published form runs an MLP over a table of relative positions in every pass, although its result depends
    on nothing but the weights. Takes the place of transformers' `Swinv2SelfAttention`; same signature.
    """

    def __init__(self, attention: Swinv2SelfAttention, shift_mask: Tensor | None) -> None:
        super().__init__()
        self.heads = attention.num_attention_heads
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        table = attention.continuous_position_bias_mlp(attention.relative_coords_table).view(-1, self.heads)
        tokens = int(attention.relative_position_index.shape[0])
        index = attention.relative_position_index.view(-1)
        bias = 16 * torch.sigmoid(table[index].view(tokens, tokens, self.heads).permute(2, 0, 1))
        # [windows of the map or 1, heads, tokens, tokens]
        bias = bias.unsqueeze(0) if shift_mask is None else bias.unsqueeze(0) + shift_mask.unsqueeze(1)
        self.windows = bias.shape[0]
        self.bias: Tensor
        self.register_buffer("bias", bias.detach().clone())
        self.scale: Tensor
        self.register_buffer("scale", attention.logit_scale.detach().clamp(max=MAX_LOGIT_SCALE).exp())

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
    ) -> tuple[Tensor]:
        """Attends within windows [B · windows, tokens, width]; the mask is folded, so the argument is ignored."""
        query = F.normalize(self._split(self.query(hidden_states)), dim=-1) * self.scale
        key = F.normalize(self._split(self.key(hidden_states)), dim=-1)
        scores = query @ key.transpose(-2, -1)
        if self.windows == 1:
            weights = (scores + self.bias).softmax(dim=-1)
        else:
            weights = (scores.unflatten(0, (-1, self.windows)) + self.bias).softmax(dim=-1).flatten(0, 1)
        mixed = weights @ self._split(self.value(hidden_states))
        return (mixed.transpose(1, 2).flatten(2),)


@torch.no_grad()
def fold_constants(backbone: SwinV2) -> None:
    """Replaces every window attention by its folded form, in place; training is not possible afterwards."""
    for layer in backbone.model.modules():
        if isinstance(layer, Swinv2Layer):
            attention = layer.attention.self
            side = layer.input_resolution[0]
            mask = layer.get_attn_mask(side, side, dtype=attention.logit_scale.dtype)
            layer.attention.register_module("self", FoldedWindowAttention(attention, mask))
