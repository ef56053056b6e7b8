"""CapeLLM as two ONNX graphs, for ONNX Runtime and Triton alike: no loop and no cache object inside.

`capellm_vision`: image UINT8 [B, S, S, 3] → image_tokens [B, N, D].

`capellm_decoder`: a piece of R sequences goes on from keys and values of what came before.

    input_ids INT64 [R, T]; image_tokens [R, N, D], which follow the first id, N = 0 where there is no image;
    positions INT64 [R, L], L = T + N; mask INT64 [R, M], M = P + L; past_keys, past_values [R, Y, H, P, d] of Y layers
    → logits [R, V] after the last position; keys, values [R, Y, H, M, d], with the past

The first axis is the batch everywhere, so that rows of several callers are stacked like those of any other component.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from cape.manifest import CacheManifest, TensorSpec
from cape.models.capellm.model import CapeLlm
from export.graph import write_module

VISION = "capellm_vision"
DECODER = "capellm_decoder"


def cache_of(model: CapeLlm) -> CacheManifest:
    """The shape of its keys and values."""
    language = model.language.config
    depth = getattr(language, "head_dim", None) or language.hidden_size // language.num_attention_heads
    return CacheManifest(layers=language.num_hidden_layers, heads=language.num_key_value_heads, depth=depth)


def vision_tensors(model: CapeLlm) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of `capellm_vision`."""
    vision, width = model.configuration.vision, model.configuration.language.width
    image = TensorSpec(name="image", dtype="uint8", shape=("B", vision.image_size, vision.image_size, 3))
    return (image,), (TensorSpec(name="image_tokens", dtype="float32", shape=("B", vision.tokens, width)),)


def decoder_tensors(model: CapeLlm) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of `capellm_decoder`."""
    cache, width = cache_of(model), model.configuration.language.width
    past: tuple[int | str, ...] = ("R", cache.layers, cache.heads, "P", cache.depth)
    whole = ("R", cache.layers, cache.heads, "M", cache.depth)
    return (
        (
            TensorSpec(name="input_ids", dtype="int64", shape=("R", "T")),
            TensorSpec(name="image_tokens", dtype="float32", shape=("R", "N", width)),
            TensorSpec(name="positions", dtype="int64", shape=("R", "L")),
            TensorSpec(name="mask", dtype="int64", shape=("R", "M")),
            TensorSpec(name="past_keys", dtype="float32", shape=past),
            TensorSpec(name="past_values", dtype="float32", shape=past),
        ),
        (
            TensorSpec(name="logits", dtype="float32", shape=("R", model.language.config.vocab_size)),
            TensorSpec(name="keys", dtype="float32", shape=whole),
            TensorSpec(name="values", dtype="float32", shape=whole),
        ),
    )


class VisionGraph(nn.Module):
    """`CapeLlm.image_tokens` as a module: crops uint8 [B, S, S, 3] → image tokens [B, N, D]."""

    def __init__(self, model: CapeLlm) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """As `CapeLlm.image_tokens`."""
        return self.model.image_tokens(image)


class DecoderGraph(nn.Module):
    """`CapeLlm.embed` and `CapeLlm.read` with the cache as two tensors."""

    def __init__(self, model: CapeLlm) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        image_tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As the head of this file says of `capellm_decoder`."""
        cache: Any = DynamicCache([(past_keys[:, y], past_values[:, y]) for y in range(past_keys.shape[1])])
        embeddings = self.model.embed(input_ids, image_tokens)
        length, past = embeddings.shape[1], past_keys.shape[3]
        # Additive, made here: how transformers makes its own depends on lengths that a graph does not know.
        place = torch.arange(past + length, device=mask.device)
        seen = (place[None, :] <= place[past:, None]) & (mask[:, None, None, :] > 0)
        additive = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        output = self.model.read(embeddings, additive, positions, cache, last=True)
        keys = torch.stack([layer.keys for layer in cache.layers], dim=1)
        values = torch.stack([layer.values for layer in cache.layers], dim=1)
        return output.logits[:, -1], keys, values


LARGEST = {"R": 4096, "T": 4096, "N": 4096, "P": 16384, "B": 1024}
"""Most of each dynamic axis."""

DERIVED = ("L", "M")
"""Axes that are sums of others: L = T + N, M = P + L."""


def export_capellm(model: CapeLlm, folder: Path) -> tuple[Path, Path]:
    """Writes both graphs, laid out as Triton reads them.

    Args:
        model: with text answers, in evaluation mode, float32 on the CPU.
        folder: of the repository; created if need be.

    Returns:
        The files of vision and decoder.

    Raises:
        ExportError: see `export.graph.write_module`.
    """
    configuration, cache = model.configuration, cache_of(model)
    size, tokens, width = configuration.vision.image_size, configuration.vision.tokens, configuration.language.width
    cached = torch.zeros(2, cache.layers, cache.heads, 5, cache.depth)
    images = (torch.zeros(2, size, size, 3, dtype=torch.uint8),)
    sequences = (
        torch.zeros(2, 3, dtype=torch.long),
        torch.zeros(2, tokens, width),
        torch.zeros(2, 3 + tokens, dtype=torch.long),
        torch.ones(2, 8 + tokens, dtype=torch.long),
        cached,
        cached.clone(),
    )
    return (
        _write(VisionGraph(model), images, vision_tensors(model), folder / VISION),
        _write(DecoderGraph(model), sequences, decoder_tensors(model), folder / DECODER),
    )


def _write(
    module: nn.Module,
    example: tuple[Tensor, ...],
    tensors: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    folder: Path,
) -> Path:
    path = folder / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_module(module, example, *tensors, path, largest=LARGEST, derived=DERIVED)
    return path
