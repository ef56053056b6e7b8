"""Which number type matrix products are computed in."""

from __future__ import annotations

from typing import Literal

import torch


def autocast_type(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype | None:
    """The type of autocast; None for none.

    'auto' takes bfloat16 where the hardware multiplies it: elsewhere it is emulated, a hundred times slower than
    float32.
    """
    if precision == "float32":
        return None
    if precision == "bfloat16" or _multiplies_bfloat16(device):
        return torch.bfloat16
    return None


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False
