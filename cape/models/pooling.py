"""Support keypoint pooling: one visual token per keypoint.

As published, a keypoint becomes a Gaussian on a 64×64 map and the token is the sum of heat map × feature map,
the features resized 8×8 → 16×16 → 64×64 (bilinear). All of that is linear and separable, so here the Gaussian
is carried back through both resizings instead: a weight per feature cell, [K, F, F], and one small product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cape.models.precision import full_precision

HEATMAP_SIZE = 64
SIGMA = 1.0
RADIUS = 3
"""Heat map of the published models: 64×64, σ = 1 cell, cut at ±3 cells."""


def interpolation_matrix(source: int, target: int) -> Tensor:
    """The matrix of bilinear resizing along one axis (align_corners=False, edges repeated).

    Returns:
        float32 [target, source]; each row sums to 1.
    """
    position = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=source - 1)
    share = position - low
    matrix = torch.zeros(target, source, dtype=torch.float64)
    rows = torch.arange(target)
    matrix.index_put_((rows, low), 1 - share, accumulate=True)
    matrix.index_put_((rows, high), share, accumulate=True)
    return matrix.float()


class KeypointPooling(nn.Module):
    """Weighs the cells of support feature maps by their closeness to each keypoint.

    Args:
        feature_size: F, side of the backbone's feature map.
        similarity_size: side of the map that the published models pool from.
    """

    def __init__(self, feature_size: int, similarity_size: int) -> None:
        super().__init__()
        resize = interpolation_matrix(similarity_size, HEATMAP_SIZE) @ interpolation_matrix(
            feature_size, similarity_size
        )
        self.resize: Tensor
        self.register_buffer("resize", resize, persistent=False)  # [64, F]
        self.cells: Tensor
        self.register_buffer("cells", torch.arange(HEATMAP_SIZE, dtype=torch.float32), persistent=False)

    def forward(self, features: Tensor, keypoints: Tensor, visible: Tensor) -> Tensor:
        """Pools one token per keypoint, averaged over the shots in which it is visible.

        Args:
            features: [B, S, C, F, F] feature maps, projected or not: a projection commutes with pooling.
            keypoints: [B, S, K, 2] crop coordinates 0–1.
            visible: [B, S, K], 1 or 0.

        Returns:
            [B, K, C]; 0 for keypoints that are visible in no shot.
        """
        centre = (keypoints * HEATMAP_SIZE + 0.5).floor()
        offset = self.cells - centre.unsqueeze(-1)  # [B, S, K, 2, 64]
        inside = (offset.abs() <= RADIUS).to(offset.dtype)
        gaussian = torch.exp(-offset.square() / (2 * SIGMA**2)) * inside
        with full_precision(gaussian):
            weights = gaussian @ self.resize  # [B, S, K, 2, F]
        mass = gaussian.sum(-1).prod(-1)  # [B, S, K], the sum of the heat map
        shots = visible.sum(1, keepdim=True).clamp(min=1.0)
        # visible / (mass + 1e-8), both sides times 1e8: the ONNX optimiser takes "+ 1e-8" for "+ 0" and drops it,
        # and a keypoint whose Gaussian lies off the map would divide by 0.
        share = 1e8 * visible / ((1e8 * mass + 1.0) * shots)
        across, down = weights[..., 0, :], weights[..., 1, :]
        cells = (down.unsqueeze(-1) * across.unsqueeze(-2) * share[..., None, None]).flatten(3)  # [B, S, K, F·F]
        # One product over shots and cells together.
        cells = cells.transpose(1, 2).flatten(2)  # [B, K, S·F·F]
        maps = features.flatten(3).transpose(2, 3).flatten(1, 2)  # [B, S·F·F, C]
        return cells @ maps
