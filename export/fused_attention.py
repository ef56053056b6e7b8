"""Image backbone and pose decoder with fewer, larger operators, for GPUs.

A GPU runs each operator of a graph as one or more kernels, and at small batches the number of kernels decides how long
a run takes. Here a Swin V2 block is written with operators that ONNX Runtime runs as one kernel each:

- Attention within windows is one `com.microsoft.MultiHeadAttention`, which never writes the scores to memory.
- Queries and keys are brought to unit length, and multiplied by the logit scale, by one root-mean-square normalisation
  whose weight is scale / √depth.
- Cutting a map into windows, shifting it and putting it together again are permutations of its cells, and everything
  but the attention treats cells alone. So cells stay in the order of the windows, and one `Gather` leads from the order
  of a block to that of the next.
- The bias of the values is added by the output projection: attention weights add up to 1.

The results are those of the published form up to rounding.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers.models.swinv2.modeling_swinv2 import Swinv2PatchMerging, Swinv2Stage

from cape.models.attention import MultiHeadAttention
from cape.models.swin import FoldedLayer, SwinV2

DOMAIN = "com.microsoft"

SMALLEST_NORM = 1e-24
"""Added to the mean square that a vector is divided by the root of; as `F.normalize`, which keeps norms above 1e-12."""


class FusedLayer(nn.Module):
    """A Swin V2 block on cells in the order of its windows. Takes the place of a `FoldedLayer`.

    Cells are ordered by their place in a window, then by window: windows can then be treated as further heads, which
    have a position bias of their own where the map is shifted.

    Attributes:
        order: [side²], the raster index of each cell in this block's order.
        side: side of the map, in cells.
    """

    def __init__(self, layer: FoldedLayer, previous: Tensor | None) -> None:
        """Takes the weights of a block.

        Args:
            layer: the block.
            previous: order of the cells that come in; None: row by row.
        """
        super().__init__()
        attention = layer.attention
        self.side, self.heads = layer.side, attention.heads
        self.windows = (layer.side // layer.window) ** 2
        self.order = window_order(layer.side, layer.window, layer.shift)
        index = self.order if previous is None else torch.argsort(previous)[self.order]
        self.moves = not torch.equal(index, torch.arange(len(index)))
        self.index: Tensor
        self.register_buffer("index", index)
        query, key, value = attention.query, attention.key, attention.value
        width, depth = query.out_features, query.out_features // attention.heads
        self.width = width
        self.qkv: Tensor
        self.register_buffer("qkv", torch.cat((query.weight, key.weight, value.weight)).t().contiguous())
        self.query_bias: Tensor
        self.register_buffer("query_bias", query.bias.detach().clone())
        self.query_weight: Tensor
        scale = attention.scale.reshape(attention.heads, 1).expand(attention.heads, depth) / depth**0.5
        self.register_buffer("query_weight", scale.repeat(self.windows, 1).unsqueeze(0).contiguous())
        self.key_weight: Tensor
        self.register_buffer("key_weight", torch.full((depth,), depth**-0.5))
        self.bias: Tensor
        tokens = attention.tokens
        bias = attention.bias.expand(self.windows, attention.heads, tokens, tokens)
        self.register_buffer("bias", bias.reshape(1, self.windows * attention.heads, tokens, tokens).contiguous())
        self.tokens = tokens
        projection = attention.output
        self.output = nn.Linear(width, width)
        self.output.weight = projection.weight
        self.output.bias = nn.Parameter(projection.bias + projection.weight @ value.bias, requires_grad=False)
        self.layernorm_before, self.layernorm_after = layer.layernorm_before, layer.layernorm_after
        self.intermediate, self.last = layer.intermediate, layer.output

    def forward(self, states: Tensor, *_: object) -> tuple[Tensor]:
        """Maps cells [B, side², width] in the previous block's order to cells in this block's."""
        if self.moves:
            states = states.index_select(1, self.index)
        states = states + self.layernorm_before(self._attended(states))
        return (states + self.layernorm_after(self.last(self.intermediate(states))),)

    def _attended(self, states: Tensor) -> Tensor:
        batch, heads = states.shape[0], self.windows * self.heads
        query, key, value = (states @ self.qkv).split(self.width, dim=-1)
        query = self._unit(query + self.query_bias, self.query_weight)
        key = self._unit(key, self.key_weight)
        together = (batch, self.tokens, self.windows * self.width)
        mixed = torch.onnx.ops.symbolic(
            f"{DOMAIN}::MultiHeadAttention",
            [query.reshape(together), key.reshape(together), value.reshape(together), None, None, self.bias],
            {"num_heads": heads, "scale": 1.0},
            dtype=states.dtype,
            shape=together,
            version=1,
        )
        return self.output(mixed.reshape(batch, self.side**2, self.width))

    def _unit(self, vectors: Tensor, weight: Tensor) -> Tensor:
        """Normalises each head's vectors and multiplies them by `weight`, which holds 1 / √depth."""
        depth = self.width // self.heads
        shape = (vectors.shape[0] * self.tokens, self.windows * self.heads, depth)
        unit = torch.onnx.ops.symbolic(
            "SimplifiedLayerNormalization",
            [vectors.reshape(shape), weight],
            {"axis": -1, "epsilon": SMALLEST_NORM, "stash_type": 1},
            dtype=vectors.dtype,
            shape=shape,
            version=1,
        )
        return unit.reshape(vectors.shape)


class _Reordered(nn.Module):
    """A module behind a permutation of the cells: [B, side², width] in a block's order comes in."""

    def __init__(self, order: Tensor, wanted: Tensor, module: nn.Module) -> None:
        super().__init__()
        index = torch.argsort(order)[wanted]
        self.moves = not torch.equal(index, torch.arange(len(index)))
        self.index: Tensor
        self.register_buffer("index", index)
        self.module = module

    def forward(self, states: Tensor, *_: object) -> Tensor:
        return self.module(states.index_select(1, self.index) if self.moves else states)


class _Merging(nn.Module):
    """Patch merging of cells whose four neighbours follow each other: [B, 4 · cells, width] → [B, cells, 2 · width]."""

    def __init__(self, merging: Swinv2PatchMerging) -> None:
        super().__init__()
        self.reduction, self.norm = merging.reduction, merging.norm

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(self.reduction(states.reshape(states.shape[0], -1, 4 * states.shape[2])))


def merging_order(side: int) -> Tensor:
    """Raster indices of a map's cells, four at a time as patch merging puts them side by side: down, then right."""
    cells = torch.arange(side * side).view(side // 2, 2, side // 2, 2)
    return cells.permute(0, 2, 3, 1).reshape(-1)


def window_order(side: int, window: int, shift: int) -> Tensor:
    """Raster indices of a map's cells, ordered by place in their window, then by window.

    Args:
        side: of the map, in cells.
        window: side of a window.
        shift: cells by which windows are shifted down and to the right, cyclically.
    """
    cells = torch.arange(side * side).view(side, side).roll((-shift, -shift), (0, 1))
    count = side // window
    return cells.view(count, window, count, window).permute(1, 3, 0, 2).reshape(-1)


@torch.no_grad()
def fuse_windows(backbone: SwinV2) -> bool:
    """Replaces the blocks of a folded Swin V2 by their fused form, in place; only for export.

    Returns:
        Whether it could: every block must be folded.
    """
    stages = [cast("Swinv2Stage", stage) for stage in backbone.model.encoder.layers]
    if not all(isinstance(block, FoldedLayer) for stage in stages for block in stage.blocks):
        return False
    for stage in stages:
        fused: list[FusedLayer] = []
        for block in stage.blocks:
            fused.append(FusedLayer(cast("FoldedLayer", block), fused[-1].order if fused else None))
        stage.blocks = nn.ModuleList(fused)
        order, side = fused[-1].order, fused[-1].side
        if stage.downsample is not None:
            stage.downsample = _Reordered(order, merging_order(side), _Merging(stage.downsample))
        else:
            raster = torch.arange(side * side)
            backbone.model.layernorm = cast("nn.LayerNorm", _Reordered(order, raster, backbone.model.layernorm))
    return True


class FusedAttention(nn.Module):
    """`MultiHeadAttention` as one operator. Returns no weights."""

    def __init__(self, attention: MultiHeadAttention) -> None:
        super().__init__()
        self.heads, self.scale = attention.heads, attention.scale
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.output = attention.output
        layers = (self.query, self.key, self.value)
        self.bias: Tensor
        self.register_buffer("bias", torch.cat([layer.bias.detach() for layer in layers]))
        weights = [layer.weight.detach() for layer in layers]
        self.alike = len({layer.in_features for layer in layers}) == 1
        # Sliced and transposed here: what a graph does to its weights it does in every run.
        self.together: Tensor | None
        self.register_buffer("together", torch.cat(weights).t().contiguous() if self.alike else None)
        self.query_key: Tensor | None
        self.register_buffer("query_key", torch.cat(weights[:2]).t().contiguous() if self.alike else None)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `MultiHeadAttention.forward`."""
        width = self.query.out_features
        if query is key and key is value and self.together is not None:
            projected = list((query @ self.together).split(width, dim=-1))
        elif query is key and self.query_key is not None:
            projected = list((query @ self.query_key).split(width, dim=-1))
            projected.append(value @ self.value.weight.t())
        else:
            projected = [query @ self.query.weight.t(), key @ self.key.weight.t(), value @ self.value.weight.t()]
        bias = None
        if mask is not None:
            bias = mask[:, None, None, :].expand(-1, 1, query.shape[1], -1)
        mixed = torch.onnx.ops.symbolic(
            f"{DOMAIN}::MultiHeadAttention",
            [*projected, self.bias, None, bias],
            {"num_heads": self.heads, "scale": self.scale},
            dtype=query.dtype,
            shape=projected[0].shape,
            version=1,
        )
        return self.output(mixed), query[..., :0]


@torch.no_grad()
def fuse_attention(module: nn.Module) -> None:
    """Replaces every `MultiHeadAttention` in a module by its fused form, in place; only for export."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MultiHeadAttention):
                setattr(parent, name, FusedAttention(child))
