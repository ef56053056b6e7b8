"""Low-rank adapters on query and value of both encoders (section 4.2), by peft. Checkpoints store them merged."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

TARGETS = ("q_proj", "v_proj")
"""Query and value, as transformers names them in DINOv2 and in Llama-style decoders alike."""

ADAPTER = "default"


def add_adapters(tower: nn.Module, *, rank: int, alpha: int, dropout: float) -> None:
    """Freezes a model and adds trainable adapters to its query and value projections, in place.

    Args:
        tower: any module with projections named as in `TARGETS`.
        rank: of the update, 8 in the paper.
        alpha: the update is multiplied by alpha ÷ rank; 16 in the public code.
        dropout: before the update.

    Raises:
        ValueError: the model has no such projections.
    """
    tower.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(TARGETS))
    inject_adapter_in_model(settings, tower, adapter_name=ADAPTER)


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns a state dict with the adapters merged into the weights: W + B·A·alpha/rank."""
    adapted: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    state = {}
    for key, value in model.state_dict().items():
        if ".lora_" in key:
            continue
        plain = key.replace(".base_layer.", ".")
        name, _, parameter = plain.rpartition(".")
        if parameter == "weight" and name in adapted:
            value = value + adapted[name].get_delta_weight(ADAPTER).to(value.dtype)
        state[plain] = value
    return state
