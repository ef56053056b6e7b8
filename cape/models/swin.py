"""Swin V2 from transformers, and its blocks with every constant folded for inference."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from transformers import Swinv2Config, Swinv2Model
from transformers.models.swinv2.modeling_swinv2 import Swinv2Attention, Swinv2Layer, Swinv2Stage

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
                # 0: positions are relative to the model's own window, not to that of a model it was pretrained as.
                pretrained_window_sizes=list(configuration.pretrained_windows or [0] * len(configuration.depths)),
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
    on nothing but the weights. Takes the place of transformers' `Swinv2Attention`.
    """

    def __init__(self, attention: Swinv2Attention, shift_mask: Tensor | None) -> None:
        super().__init__()
        published = attention.self
        self.heads = published.num_attention_heads
        self.query, self.key, self.value = published.query, published.key, published.value
        self.output = attention.output.dense
        table = published.continuous_position_bias_mlp(published.relative_coords_table).view(-1, self.heads)
        self.tokens = int(published.relative_position_index.shape[0])
        index = published.relative_position_index.view(-1)
        bias = 16 * torch.sigmoid(table[index].view(self.tokens, self.tokens, self.heads).permute(2, 0, 1))
        # [windows of the map or 1, heads, tokens, tokens]
        bias = bias.unsqueeze(0) if shift_mask is None else bias.unsqueeze(0) + shift_mask.unsqueeze(1)
        self.windows = bias.shape[0]
        self.bias: Tensor
        self.register_buffer("bias", bias.detach().clone())
        self.scale: Tensor
        self.register_buffer("scale", published.logit_scale.detach().clamp(max=MAX_LOGIT_SCALE).exp())

    def _split(self, x: Tensor) -> Tensor:
        return x.view(-1, self.tokens, self.heads, x.shape[-1] // self.heads).transpose(1, 2)

    def forward(self, windows: Tensor) -> Tensor:
        """Attends within windows [B · windows of a map, tokens, width]."""
        query = _unit(self._split(self.query(windows))) * self.scale
        key = _unit(self._split(self.key(windows)))
        scores = query @ key.transpose(-2, -1)
        if self.windows == 1:
            weights = (scores + self.bias).softmax(dim=-1)
        else:
            shape = scores.shape[1:]
            weights = (scores.view(-1, self.windows, *shape) + self.bias).softmax(dim=-1).view(-1, *shape)
        mixed = weights @ self._split(self.value(windows))
        return self.output(mixed.transpose(1, 2).reshape(-1, self.tokens, windows.shape[-1]))


def _unit(x: Tensor) -> Tensor:
    """`F.normalize` over the last axis, without writing the norm out for every element."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


class FoldedLayer(nn.Module):
    """A block whose map has one known size: nothing is padded, and what is one window is neither cut nor shifted.

    Takes the place of transformers' `Swinv2Layer`. Only the batch is open, which every `view` leaves to torch as -1:
    its sizes are constants of the exported graph.
    """

    def __init__(self, layer: Swinv2Layer) -> None:
        super().__init__()
        self.side, self.window, self.shift = int(layer.input_resolution[0]), int(layer.window_size), layer.shift_size
        logit_scale = layer.attention.self.logit_scale
        mask = layer.get_attn_mask(self.side, self.side, dtype=logit_scale.dtype, device=logit_scale.device)
        self.attention = FoldedWindowAttention(layer.attention, mask)
        self.layernorm_before, self.layernorm_after = layer.layernorm_before, layer.layernorm_after
        self.intermediate, self.output = layer.intermediate, layer.output.dense

    def forward(self, states: Tensor, *_: object) -> tuple[Tensor]:
        """Maps cells [B, side · side, width] to cells; arguments and result are those of `Swinv2Layer`."""
        states = states + self.layernorm_before(self._attended(states))
        return (states + self.layernorm_after(self.output(self.intermediate(states))),)

    def _attended(self, states: Tensor) -> Tensor:
        side, window, width = self.side, self.window, states.shape[-1]
        count = side // window
        if count == 1:
            return self.attention(states)
        cells = states.view(-1, side, side, width)
        if self.shift:
            cells = cells.roll((-self.shift, -self.shift), (1, 2))
        windows = cells.view(-1, count, window, count, window, width).transpose(2, 3)
        windows = self.attention(windows.reshape(-1, window * window, width))
        cells = windows.view(-1, count, count, window, window, width).transpose(2, 3).reshape(-1, side, side, width)
        if self.shift:
            cells = cells.roll((self.shift, self.shift), (1, 2))
        return cells.view(-1, side * side, width)


@torch.no_grad()
def fold_constants(backbone: SwinV2) -> None:
    """Replaces blocks by their folded form, in place; training is not possible afterwards.

    A block that pads its map to whole windows stays as it is.
    """
    for stage in list(backbone.model.modules()):
        if isinstance(stage, Swinv2Stage):
            blocks = [cast("Swinv2Layer", block) for block in stage.blocks]
            stage.blocks = nn.ModuleList(FoldedLayer(block) if _is_tiled(block) else block for block in blocks)


def _is_tiled(layer: Swinv2Layer) -> bool:
    """Whether windows cover its map without padding, as those of every published size do."""
    return int(layer.input_resolution[0]) % int(layer.window_size) == 0
