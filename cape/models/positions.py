"""Sine position encodings of coordinates and of map cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0
"""Longest wavelength ÷ 2π, as in DETR."""


def sine_encoding(coordinates: Tensor, width: int) -> Tensor:
    """Encodes coordinates, y in the first half of the features and x in the second.

    Args:
        coordinates: float [..., 2], (x, y) in 0–1; 1 is a full turn of the slowest wave.
        width: features of the encoding, a multiple of 4.

    Returns:
        [..., width]: in each half, sine on even and cosine on odd indices.
    """
    half = width // 2
    pair = torch.arange(half // 2, dtype=torch.float32, device=coordinates.device)
    frequency = 2 * math.pi * TEMPERATURE ** (-2 * pair / half)
    angle = coordinates.flip(-1).unsqueeze(-1) * frequency  # [..., 2 (y, x), half / 2]
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-3)


def map_encoding(size: int, width: int) -> Tensor:
    """Encodes the cells of a square map, row by row.

    Cells count from 1 to `size`, normalised by `size` (+1e-6), as published.

    Returns:
        float32 [size · size, width].
    """
    index = torch.arange(1, size + 1, dtype=torch.float32) / (size + 1e-6)
    y, x = torch.meshgrid(index, index, indexing="ij")
    return sine_encoding(torch.stack((x, y), dim=-1).reshape(size * size, 2), width)
