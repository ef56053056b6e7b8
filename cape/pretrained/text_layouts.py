"""Text encoders as others name their parameters → as transformers names them.

Three layouts occur: transformers' own, the original `NewModel` of gte-base-en-v1.5 (queries, keys and values
packed, gate and up projection packed), and OpenAI's CLIP (attention packed, projection transposed).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

State = dict[str, Tensor]

HEAD_WIDTH = 64
"""Width of an attention head in gte-base, BERT-base and every CLIP text encoder: shapes alone do not tell it."""

GTE_ROPE = {"rope_type": "default", "rope_theta": 500000.0}
GTE_NTK_FACTOR = 2.0
"""gte-base-en-v1.5's rotary embedding: base 500,000, stretched by fixed NTK scaling with factor 2."""

TEXT_ANCHORS = {
    "embeddings.word_embeddings.weight": "gte",
    "text_model.embeddings.token_embedding.weight": "clip",
    "token_embedding.weight": "clip",
}
"""A key that every text encoder of a layout has → its kind; whatever stands before it is a prefix of all keys."""


def is_original_gte(state: Mapping[str, Tensor]) -> bool:
    """Whether parameters are named as the original `NewModel` names them."""
    return any(".attention.qkv_proj." in key for key in state)


def gte_from_original(state: Mapping[str, Tensor]) -> State:
    """`NewModel` → transformers' `GteModel`."""
    out: State = {}
    for key, value in state.items():
        if "rotary_emb" in key or key.endswith("position_ids") or key.startswith(("pooler.", "lm_head.")):
            continue
        name = re.sub(r"^encoder\.layer\.", "layers.", key)
        name = name.replace(".attention.o_proj.", ".self_attn.o_proj.")
        name = name.replace(".attn_ln.", ".post_attention_layernorm.").replace(".mlp_ln.", ".post_mlp_layernorm.")
        if match := re.match(r"(.*)\.attention\.qkv_proj\.(weight|bias)$", name):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                out[f"{match[1]}.self_attn.{part}_proj.{match[2]}"] = piece
        elif match := re.match(r"(.*)\.mlp\.up_gate_proj\.weight$", name):
            out[f"{match[1]}.mlp.up_proj.weight"], out[f"{match[1]}.mlp.gate_proj.weight"] = value.chunk(2)
        else:
            out[name] = value
    return out


def clip_from_openai(state: Mapping[str, Tensor]) -> State:
    """The text half of OpenAI's CLIP → transformers' `CLIPTextModelWithProjection`."""
    layer = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    out: State = {}
    for key, value in state.items():
        if key == "text_projection":
            out["text_projection.weight"] = value.T.contiguous()
        elif key == "positional_embedding":
            out["text_model.embeddings.position_embedding.weight"] = value
        elif key == "token_embedding.weight":
            out["text_model.embeddings.token_embedding.weight"] = value
        elif key.startswith("ln_final."):
            out[key.replace("ln_final.", "text_model.final_layer_norm.")] = value
        elif match := re.match(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)$", key):
            stem = f"text_model.encoder.layers.{match[1]}"
            out[f"{stem}.{layer[match[2]]}.{match[3]}"] = value
        elif match := re.match(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$", key):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                out[f"text_model.encoder.layers.{match[1]}.self_attn.{part}_proj.{match[2]}"] = piece
    return out


def find_text_encoder(state: Mapping[str, Tensor]) -> tuple[str, State] | None:
    """Finds a text encoder among the keys of a checkpoint, under whatever prefix it stands.

    Returns:
        Its kind ('gte' or 'clip') and its parameters as transformers names them; None where there is none.
    """
    for anchor, kind in TEXT_ANCHORS.items():
        for key in state:
            if key != anchor and not key.endswith(f".{anchor}"):
                continue
            prefix = key.removesuffix(anchor)
            inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            if kind == "gte":
                return kind, gte_from_original(inner) if is_original_gte(inner) else inner
            if "positional_embedding" in inner:
                return kind, clip_from_openai(inner)
            wanted = ("text_model.", "text_projection.")
            return kind, {
                name: value
                for name, value in inner.items()
                if name.startswith(wanted) and not name.endswith("position_ids")
            }
    return None


def bert_from_folder(state: Mapping[str, Tensor]) -> State:
    """A BERT under whatever prefix → transformers' `BertModel` without its pooler; {} where there is none.

    Files converted from TensorFlow call the scale and shift of a LayerNorm gamma and beta.
    """
    anchor = "embeddings.word_embeddings.weight"
    prefix = next((key.removesuffix(anchor) for key in state if key == anchor or key.endswith(f".{anchor}")), None)
    if prefix is None:
        return {}
    out: State = {}
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if (
            key.startswith(prefix)
            and name.startswith(("embeddings.", "encoder."))
            and not name.endswith("position_ids")
        ):
            name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
            out[re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)] = value
    return out


def unsupported_settings(kind: str, document: Mapping[str, Any]) -> str | None:
    """What a Hugging Face config.json asks for that these models do not compute; None where there is nothing.

    Args:
        kind: 'gte', 'bert' or 'clip'.
        document: the parsed file.
    """
    supported: dict[str, dict[str, Any]] = {
        "gte": {"position_embedding_type": "rope", "layer_norm_type": "layer_norm", "logn_attention_scale": False},
        "bert": {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    }
    for name, value in supported.get(kind, {}).items():
        if document.get(name) is not None and document[name] != value:
            return f"{name} {document[name]!r} is not supported, {value!r} is"
    scaling = document.get("rope_scaling") or {}
    scaled = scaling.get("type") or scaling.get("rope_type") or (document.get("rope_parameters") or {}).get("rope_type")
    if kind == "gte" and scaled not in (None, "default", "ntk"):
        return f"rotary embeddings with {scaled!r} scaling are not supported, 'ntk' are"
    if kind == "gte" and scaling.get("mixed_b") is not None:
        return "rope_scaling.mixed_b is not supported"
    return None


def architecture(kind: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the transformers configuration, read off shapes.

    Args:
        kind: 'gte' or 'clip'.
        state: parameters as transformers names them.
    """
    if kind == "gte":
        vocabulary, width = state["embeddings.word_embeddings.weight"].shape
        layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
        token_types = state.get("embeddings.token_type_embeddings.weight")
        return {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": max(1, width // HEAD_WIDTH),
            "intermediate_size": state["layers.0.mlp.up_proj.weight"].shape[0],
            "type_vocab_size": 0 if token_types is None else token_types.shape[0],
            "max_position_embeddings": 8192,
            "pad_token_id": 0,
            "rope_parameters": dict(GTE_ROPE),
            "ntk_factor": GTE_NTK_FACTOR,
        }
    vocabulary, width = state["text_model.embeddings.token_embedding.weight"].shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": 1 + max(int(key.split(".")[3]) for key in state if ".encoder.layers." in key),
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "intermediate_size": state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "max_position_embeddings": state["text_model.embeddings.position_embedding.weight"].shape[0],
        "projection_dim": state["text_projection.weight"].shape[0],
        "hidden_act": "quick_gelu",
        # 2 makes transformers take the state of the highest token id, as OpenAI's encode_text does.
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def architecture_from_config(kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the transformers configuration, out of a Hugging Face config.json.

    Args:
        kind: 'gte', 'bert' or 'clip'.
        document: the parsed file; for CLIP of the whole model, its text part is used.
    """
    shared = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id",
    )  # fmt: skip
    if kind == "clip":
        part = {**document, **document.get("text_config", {})}
        names: tuple[str, ...] = (*shared, "projection_dim", "bos_token_id", "eos_token_id")
        defaults = {"vocab_size": 49408, "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8,
                    "intermediate_size": 2048, "max_position_embeddings": 77, "projection_dim": 512}  # fmt: skip
        return defaults | {name: part[name] for name in names if part.get(name) is not None}
    found = {name: document[name] for name in (*shared, "type_vocab_size") if document.get(name) is not None}
    if kind == "gte":
        rope = document.get("rope_parameters") or {
            "rope_type": "default",
            "rope_theta": document.get("rope_theta", GTE_ROPE["rope_theta"]),
        }
        scaling = document.get("rope_scaling") or {}
        found["rope_parameters"] = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
        if (scaling.get("type") or scaling.get("rope_type") or rope.get("rope_type")) == "ntk":
            found["ntk_factor"] = float(scaling.get("factor") or rope["factor"])
    return found
