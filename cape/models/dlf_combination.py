"""Decision-level fusion: how the answers of the image and the text pathway become one.

The multi-modal paper says that DLF "adaptively combines" them and no more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cape.configuration import Combination


def pathway_weights(
    combination: Combination,
    keypoints: Tensor,
    similarity: Tensor,
    confidence: Tensor,
    mask: Tensor,
    cells: Tensor,
    radius: float,
) -> Tensor:
    """Weight of each pathway's answer for each keypoint.

    Args:
        combination: 'agreement': the mean where the pathways' answers lie within `radius` of each other, else the
            answer nearer to the peak of the product of their softmaxed similarity maps; 'best': the more confident
            answer; 'confidence': both, weighted by confidence; 'mean': both alike.
        keypoints: [B, P, K, 2] answers, fractions of the crop.
        similarity: [B, P, K, N] raw similarity maps.
        confidence: [B, P, K], 0–1; 0 where a pathway does not know the keypoint.
        mask: [B, P, K], 1 where a pathway knows the keypoint.
        cells: [N, 2] centres of the maps' cells, fractions of the crop.
        radius: of 'agreement', as a share of the crop's side.

    Returns:
        [B, P, K], sums to 1 over P. A pathway that does not know a keypoint has no weight, unless none knows it: then
        all weigh the same.
    """
    if combination == "mean":
        weight = mask
    elif combination == "confidence":
        weight = confidence
    elif combination == "best":
        weight = mask * _is_first_maximum(confidence)
    else:
        # A pathway without knowledge adds nothing to the logarithm of the product.
        product = (similarity.log_softmax(-1) * mask.unsqueeze(-1)).sum(1)
        peak = cells[product.argmax(-1)].unsqueeze(1)  # [B, 1, K, 2]
        distance = (keypoints - peak).square().sum(-1)
        nearer = mask * _is_first_maximum(-distance - (1 - mask) * FAR)
        first, last = keypoints[:, :1], keypoints[:, -1:]
        apart = ((first - last).square().sum(-1) > radius**2).to(mask.dtype)
        weight = apart * nearer + (1 - apart) * mask
    total = weight.sum(1, keepdim=True)
    return torch.where(total > 0, weight / total.clamp(min=1e-12), torch.full_like(weight, 1 / weight.shape[1]))


FAR = 10.0
"""More than any squared distance within a crop."""


def _is_first_maximum(values: Tensor) -> Tensor:
    """1 at the largest of the P values [B, P, K], at the first of them where several are; 0 elsewhere."""
    places = torch.arange(values.shape[1], device=values.device)[:, None]
    return (places == values.argmax(1, keepdim=True)).to(values.dtype)
