"""Parameter names of the published GraphCape, CapeX and CapeFormer code → those of `System`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from cape.pretrained.text_layouts import find_text_encoder
from cape.pretrained.weight_files import WeightsError

State = dict[str, Tensor]

TEXT_PREFIX = "text_backbone."

COMPUTED = ("relative_coords_table", "relative_position_index", "attn_mask")
"""Buffers that a model computes for itself."""


class PublishedCheckpointError(WeightsError):
    """A file that is not a published checkpoint, or only a part of one; says which keys."""


def _swin(state: Mapping[str, Tensor]) -> State:
    """Microsoft's Swin V2 keys → those of transformers' model."""
    renamed = [
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^patch_embed\.norm\.", "embeddings.norm."),
        (r"^norm\.", "layernorm."),
        (r"^layers\.", "encoder.layers."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.attn\.cpb_mlp\.", ".attention.self.continuous_position_bias_mlp."),
        (r"\.attn\.logit_scale$", ".attention.self.logit_scale"),
        (r"\.attn\.q_bias$", ".attention.self.query.bias"),
        (r"\.attn\.v_bias$", ".attention.self.value.bias"),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ]
    out: State = {}
    for key, value in state.items():
        if key.startswith("head.") or key.endswith(COMPUTED):
            continue
        name = key
        for pattern, replacement in renamed:
            name = re.sub(pattern, replacement, name)
        if name.endswith(".attn.qkv.weight"):
            stem = name.removesuffix(".attn.qkv.weight") + ".attention.self."
            for part, weight in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[f"{stem}{part}.weight"] = weight
        else:
            out[name] = value
    return out


def _attention(prefix: str, state: Mapping[str, Tensor], target: str) -> State:
    """torch.nn.MultiheadAttention's parameters → those of `MultiHeadAttention`."""
    out: State = {}
    parts = ("query", "key", "value")
    if f"{prefix}in_proj_weight" in state:
        weights = state[f"{prefix}in_proj_weight"].chunk(3)
    else:
        weights = tuple(state[f"{prefix}{letter}_proj_weight"] for letter in "qkv")
    for part, weight, bias in zip(parts, weights, state[f"{prefix}in_proj_bias"].chunk(3), strict=True):
        out[f"{target}{part}.weight"], out[f"{target}{part}.bias"] = weight, bias
    for name in ("weight", "bias"):
        out[f"{target}output.{name}"] = state[f"{prefix}out_proj.{name}"]
    return out


def _graph_convolution(prefix: str, state: Mapping[str, Tensor], target: str) -> State:
    """A 1×1 convolution onto two adjacency matrices, [identity; skeleton] → `GraphConvolution`."""
    out: State = {}
    for name in ("weight", "bias"):
        own, neighbours = state[f"{prefix}conv.{name}"].chunk(2)
        out[f"{target}own.{name}"] = own.squeeze(-1) if name == "weight" else own
        out[f"{target}neighbours.{name}"] = neighbours.squeeze(-1) if name == "weight" else neighbours
    return out


def _head(state: Mapping[str, Tensor]) -> State:
    """`keypoint_head.` without its prefix → our head."""
    out: State = {}
    for key, value in state.items():
        if match := re.match(r"(transformer\.(?:en|de)coder\.layers\.\d+\.)(self_attn|multihead_attn)\.", key):
            if not key.endswith("out_proj.bias"):  # one key stands for the whole module
                continue
            layer = match[1].replace("transformer.", "transformers.0.", 1)
            ours = {"self_attn": "self_attention.", "multihead_attn": "cross_attention."}[match[2]]
            ours = "attention." if "encoder" in layer else ours
            out |= _attention(match[0], state, layer + ours)
        elif match := re.match(r"(transformer\.decoder\.layers\.\d+\.)ffn([12])\.(conv\.)?", key):
            layer = match[1].replace("transformer.", "transformers.0.", 1)
            ours = f"{layer}feedforward.{'first' if match[2] == '1' else 'second'}."
            if match[3] is None:
                out[ours + key.removeprefix(match[0])] = value
            else:
                out |= _graph_convolution(match[0].removesuffix("conv."), state, ours)
        elif key == "input_proj.weight":
            out[key] = value.flatten(1)
        else:
            name = key.replace("transformer.", "transformers.0.", 1)
            name = re.sub(r"decoder\.ref_point_head\.layers\.([01])\.", lambda m: _POSITION_HEAD[m[1]], name)
            out[re.sub(r"^(kpt_branch\.\d+)\.mlp\.", r"\1.", name)] = value
    return out


_POSITION_HEAD = {"0": "decoder.position_head.0.", "1": "decoder.position_head.2."}


def under(state: Mapping[str, Tensor], prefix: str) -> State:
    """The parameters below a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def convert(state: Mapping[str, Tensor]) -> State:
    """Renames a published state dict to that of `System`; a text encoder only where the file brings one.

    Raises:
        PublishedCheckpointError: a part of a packed parameter is missing; names its key.
    """
    try:
        backbone, head = _swin(under(state, "backbone.")), _head(under(state, "keypoint_head."))
    except KeyError as error:
        raise PublishedCheckpointError(f"missing key 'keypoint_head.{error.args[0]}'") from None
    found = find_text_encoder(under(state, TEXT_PREFIX))
    return {
        **{f"image_backbone.network.model.{key}": value for key, value in backbone.items()},
        **{f"text_encoder.tower.{key}": value for key, value in (found[1] if found else {}).items()},
        **head,
    }
