"""The proposal generator: where each keypoint matches the query image, before refinement."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cape.models.precision import full_precision


class Proposals(NamedTuple):
    """First guesses.

    Attributes:
        similarity: [B, K, N] raw similarity of each keypoint and map cell, cells row by row.
        peak: [B, K, 2] expectation over the 3×3 cells around the best one: what the decoder starts from.
        mean: [B, K, 2] expectation over the whole map: what the loss looks at.
        confidence: [B, K] share of the softmax's mass in those 3×3 cells, 0–1.
    """

    similarity: Tensor
    peak: Tensor
    mean: Tensor
    confidence: Tensor


class ProposalGenerator(nn.Module):
    """Compares keypoint tokens, gated by themselves, with image tokens.

    Args:
        width: width of the tokens.
        gate_width: width inside the gate.
        size: side of the map, in cells.
    """

    def __init__(self, width: int, gate_width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.support_proj = nn.Linear(width, width)
        self.query_proj = nn.Linear(width, width)
        self.dynamic_proj = nn.Sequential(nn.Linear(width, gate_width), nn.ReLU(), nn.Linear(gate_width, width))
        centres = (torch.arange(size, dtype=torch.float32) + 0.5) / size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        self.cells: Tensor
        self.register_buffer("cells", torch.stack((x, y), dim=-1).reshape(-1, 2), persistent=False)

    def forward(self, image: Tensor, keypoints: Tensor) -> Proposals:
        """Proposes a place for every keypoint.

        Args:
            image: [B, N, width] image tokens, N = size².
            keypoints: [B, K, width] keypoint tokens.
        """
        support = self.support_proj(keypoints)
        support = (self.dynamic_proj(support).tanh() + 1) * support
        similarity = support @ self.query_proj(image).transpose(-2, -1)
        with full_precision(similarity):
            return self._read(similarity.to(self.cells.dtype))

    def _read(self, similarity: Tensor) -> Proposals:
        """Peaks, means and confidences of similarity maps [B, K, N]."""
        mass = similarity.softmax(dim=-1)
        best = similarity.argmax(dim=-1, keepdim=True)
        index = torch.arange(self.size**2, device=similarity.device)
        rows = (index // self.size - torch.div(best, self.size, rounding_mode="floor")).abs() <= 1
        columns = (index % self.size - best % self.size).abs() <= 1
        local = mass * (rows & columns).to(mass.dtype)
        confidence = local.sum(dim=-1)
        # The published code adds 1e-10 so that a map without mass divides by something.
        peak = (local / (confidence.unsqueeze(-1) + 1e-10)) @ self.cells
        return Proposals(similarity, peak, mass @ self.cells, confidence)
