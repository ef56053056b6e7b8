"""Features of a frozen backbone on a common scale while the head is trained, and the same head without it afterwards.

A convolutional backbone's channels differ in scale by orders of magnitude (EfficientNet-Lite0's reach ±46, with a
mean of their own): attention saturates on a few of them, and image tokens collapse into one. Training therefore sees
(feature − mean) / standard deviation, channel by channel. The head reads features through linear projections
alone, and keypoint pooling takes weighted means, so the scale is folded into these when a checkpoint is written:
the model itself knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cape.models.system import System

SMALLEST = 1e-4
"""Standard deviation of a channel that says nothing."""


class Standardisation(nn.Module):
    """Brings features to mean 0 and standard deviation 1.

    Args:
        features: [N, C, F, F], a sample of raw features.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        channels = features.float().movedim(1, 0).flatten(1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", channels.mean(1))
        self.register_buffer("std", channels.std(1).clamp(min=SMALLEST))

    def forward(self, features: Tensor) -> Tensor:
        """Raw features [B, C, F, F] → standardised ones."""
        return (features - self.mean[:, None, None]) / self.std[:, None, None]

    def unfold(self, system: System) -> None:
        """Makes a head that reads raw features one that reads standardised ones, in place."""
        with torch.no_grad():
            for projection in _projections(system):
                projection.bias.add_(projection.weight @ self.mean)
                projection.weight.mul_(self.std)

    @contextmanager
    def folded(self, system: System) -> Iterator[None]:
        """Within it a head that reads standardised features reads raw ones; afterwards it is bit for bit as before."""
        projections = _projections(system)
        before = [(projection.weight.clone(), projection.bias.clone()) for projection in projections]
        with torch.no_grad():
            for projection in projections:
                projection.weight.div_(self.std)
                projection.bias.sub_(projection.weight @ self.mean)
            try:
                yield
            finally:
                for projection, (weight, bias) in zip(projections, before, strict=True):
                    projection.weight.copy_(weight)
                    projection.bias.copy_(bias)


def _projections(system: System) -> list[nn.Linear]:
    """Whatever reads features."""
    return [projection for projection in (system.input_proj, system.query_proj) if projection is not None]
