"""CapeLLM as two ONNX graphs, for ONNX Runtime and Triton alike: no loop and no cache object inside.

`capellm_vision`: image UINT8 [B, S, S, 3] → image_tokens [B, N, D].

`capellm_decoder`: a piece of R sequences goes on from keys and values of what came before.

    input_ids INT64 [R, T]; image_tokens [R, N, D], which follow the first id, N = 0 where there is no image;
    positions INT64 [R, L] and mask INT64 [R, P + L], L = T + N; past_keys, past_values [Y, R, H, P, d] of Y layers
    → logits [R, V] after the last position; keys, values [Y, R, H, P + L, d], with the past
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from cape.models.capellm.model import CapeLlm

VISION = "capellm_vision"
DECODER = "capellm_decoder"
OPSET = 18


class _Vision(nn.Module):
    def __init__(self, model: CapeLlm) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.image_tokens(image)


class _Decoder(nn.Module):
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
        cache: Any = DynamicCache([(past_keys[y], past_values[y]) for y in range(past_keys.shape[0])])
        embeddings = self.model.embed(input_ids, image_tokens)
        length, past = embeddings.shape[1], past_keys.shape[3]
        # Additive, made here: how transformers makes its own depends on lengths that a graph does not know.
        place = torch.arange(past + length, device=mask.device)
        seen = (place[None, :] <= place[past:, None]) & (mask[:, None, None, :] > 0)
        additive = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        output = self.model.read(embeddings, additive, positions, cache, last=True)
        keys = torch.stack([layer.keys for layer in cache.layers])
        values = torch.stack([layer.values for layer in cache.layers])
        return output.logits[:, -1], keys, values


def export_capellm(model: CapeLlm, folder: Path) -> tuple[Path, Path]:
    """Writes both graphs, laid out as Triton reads them.

    Args:
        model: with text answers, in evaluation mode, float32 on the CPU.
        folder: of the repository; created if need be.

    Returns:
        The files of vision and decoder.
    """
    configuration = model.configuration
    size, tokens, width = configuration.vision.image_size, configuration.vision.tokens, configuration.language.width
    language = model.language.config
    heads = language.num_key_value_heads
    depth = getattr(language, "head_dim", None) or width // language.num_attention_heads
    dim = torch.export.Dim
    rows, text, image, past = dim("R", max=4096), dim("T", max=4096), dim("N", max=4096), dim("P", max=16384)
    cached = torch.zeros(language.num_hidden_layers, 2, heads, 5, depth)
    vision = _write(
        _Vision(model),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        (["image"], ["image_tokens"]),
        {"image": {0: dim("B", max=1024)}},
        folder / VISION,
    )
    decoder = _write(
        _Decoder(model),
        (
            torch.zeros(2, 3, dtype=torch.long),
            torch.zeros(2, tokens, width),
            torch.zeros(2, 3 + tokens, dtype=torch.long),
            torch.ones(2, 8 + tokens, dtype=torch.long),
            cached,
            cached.clone(),
        ),
        (
            ["input_ids", "image_tokens", "positions", "mask", "past_keys", "past_values"],
            ["logits", "keys", "values"],
        ),
        {
            "input_ids": {0: rows, 1: text},
            "image_tokens": {0: rows, 1: image},
            "positions": {0: rows, 1: torch.export.Dim.DYNAMIC},
            "mask": {0: rows, 1: torch.export.Dim.DYNAMIC},
            "past_keys": {1: rows, 3: past},
            "past_values": {1: rows, 3: past},
        },
        folder / DECODER,
    )
    return vision, decoder


def _write(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: tuple[list[str], list[str]],
    shapes: dict[str, Any],
    folder: Path,
) -> Path:
    path = folder / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=names[0],
            output_names=names[1],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=True)
    onnx.checker.check_model(str(path))
    return path
