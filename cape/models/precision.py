"""Full precision inside autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Switches autocast off for coordinates and the probabilities that they are read from.

    bfloat16 has 8 bits of precision: a coordinate near 1 would move in steps of 1/256 of the crop. Without autocast,
    as in export, this does nothing.

    Args:
        tensor: on the device concerned.
    """
    device = tensor.device.type
    # The meta device, on which operations are counted, knows no autocast and raises if asked.
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
