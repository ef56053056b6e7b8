"""CapeLLM as two ONNX graphs, for ONNX Runtime and Triton alike: no loop and no cache object inside.

`capellm_vision`: image UINT8 [B, S, S, 3] → image_tokens [B, N, D].

`capellm_decoder`: a piece of R sequences goes on from keys and values of what came before.

    input_ids INT64 [R, T]; image_tokens [R, N, D], which follow the first id, N = 0 where there is no image;
    positions INT64 [R, L], L = T + N; mask INT64 [R, M], M = P + L; past_keys, past_values [R, Y, H, P, d] of Y layers
    → logits [R, V] after the last position; keys, values [R, Y, H, M, d], with the past

The first axis is the batch everywhere, so that rows of several callers are stacked like those of any other component.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from cape.manifest import CacheManifest, TensorSpec
from cape.models.capellm.model import CapeLlm
from export.graph import ExportError, quiet_exporter

VISION = "capellm_vision"
DECODER = "capellm_decoder"
OPSET = 18


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


def export_capellm(model: CapeLlm, folder: Path) -> tuple[Path, Path]:
    """Writes both graphs, laid out as Triton reads them.

    Args:
        model: with text answers, in evaluation mode, float32 on the CPU.
        folder: of the repository; created if need be.

    Returns:
        The files of vision and decoder.

    Raises:
        ExportError: an axis that must be dynamic became a constant.
    """
    configuration, cache = model.configuration, cache_of(model)
    size, tokens, width = configuration.vision.image_size, configuration.vision.tokens, configuration.language.width
    dim = torch.export.Dim
    rows, text, image, past = dim("R", max=4096), dim("T", max=4096), dim("N", max=4096), dim("P", max=16384)
    cached = torch.zeros(2, cache.layers, cache.heads, 5, cache.depth)
    vision = _write(
        VisionGraph(model),
        vision_tensors(model),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        {"image": {0: dim("B", max=1024)}},
        folder / VISION,
    )
    decoder = _write(
        DecoderGraph(model),
        decoder_tensors(model),
        (
            torch.zeros(2, 3, dtype=torch.long),
            torch.zeros(2, tokens, width),
            torch.zeros(2, 3 + tokens, dtype=torch.long),
            torch.ones(2, 8 + tokens, dtype=torch.long),
            cached,
            cached.clone(),
        ),
        {
            "input_ids": {0: rows, 1: text},
            "image_tokens": {0: rows, 1: image},
            "positions": {0: rows, 1: torch.export.Dim.DYNAMIC},
            "mask": {0: rows, 1: torch.export.Dim.DYNAMIC},
            "past_keys": {0: rows, 3: past},
            "past_values": {0: rows, 3: past},
        },
        folder / DECODER,
    )
    return vision, decoder


def _write(
    module: nn.Module,
    tensors: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    inputs: tuple[Tensor, ...],
    shapes: dict[str, Any],
    folder: Path,
) -> Path:
    path = folder / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad(), quiet_exporter():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=[spec.name for spec in tensors[0]],
            output_names=[spec.name for spec in tensors[1]],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=True)
    onnx.checker.check_model(str(path))
    _check_axes(path, tensors)
    return path


def _check_axes(path: Path, tensors: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]) -> None:
    """An axis that an operation took for a constant would fail only once something else is served."""
    graph = onnx.load(path, load_external_data=False).graph
    found = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)}
    for spec in (*tensors[0], *tensors[1]):
        sizes = [axis.dim_param or axis.dim_value for axis in found[spec.name]]
        for size, expected in zip(sizes, spec.shape, strict=True):
            if isinstance(expected, str) != isinstance(size, str) or (isinstance(expected, int) and size != expected):
                raise ExportError(f"{path.parts[-3]}: {spec.name} came out as {sizes}, not {list(spec.shape)}")
