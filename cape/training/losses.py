"""The losses of the multi-modal paper, equations 5 to 9, and the proposal's own loss of the public code.

The paper writes norms; the public GraphCape code, which it builds on, and its own text ("mean squared error") say
which: squared differences for maps and for consistency, absolute ones for coordinates, summed over x and y.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cape.models.pooling import HEATMAP_SIZE, RADIUS, SIGMA, interpolation_matrix

OffsetNormalisation = Literal["equation", "keypoints"]


def target_heatmaps(keypoints: Tensor, size: int) -> Tensor:
    """Ground truth of the similarity maps, H_i of equation 6.

    As published: a Gaussian on a 64×64 map (centre rounded to a cell, σ 1, cut at ±3 cells), resized bilinearly
    to the similarity map and divided by its peak (+ 1e-10). All of it is separable, and done so.

    Args:
        keypoints: [B, K, 2], fractions of the crop.
        size: side of the similarity map, in cells.

    Returns:
        float32 [B, K, size, size], 0–1; 0 where the keypoint lies outside.
    """
    points = keypoints.float()
    cells = torch.arange(HEATMAP_SIZE, dtype=torch.float32, device=points.device)
    offset = cells - (points * HEATMAP_SIZE + 0.5).floor().unsqueeze(-1)  # [B, K, 2, 64]
    gaussian = torch.exp(-offset.square() / (2 * SIGMA**2)) * (offset.abs() <= RADIUS)
    resized = gaussian @ interpolation_matrix(HEATMAP_SIZE, size).to(points.device).T  # [B, K, 2, size]
    maps = resized[..., 1, :].unsqueeze(-1) * resized[..., 0, :].unsqueeze(-2)
    return maps / (maps.amax((-2, -1), keepdim=True) + 1e-10)


def heatmap_loss(similarity: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Equation 6: squared difference of σ(similarity) and heat map, averaged over H, W and valid keypoints.

    Args:
        similarity: [B, K, H·W], raw.
        target: [B, K, H, W], from `target_heatmaps`.
        valid: [B, K], 1 or 0.

    Returns:
        [B], 0 for samples without a valid keypoint.
    """
    difference = (similarity.float().sigmoid() - target.flatten(2)).square().mean(-1)
    return (difference * valid).sum(-1) / valid.sum(-1).clamp(min=1.0)


def offset_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, normalisation: OffsetNormalisation = "equation"
) -> Tensor:
    """Equation 7: absolute differences of coordinates, over all decoder layers.

    Args:
        predicted: [L, B, K, 2], fractions of the crop, of each layer.
        target: [B, K, 2].
        valid: [B, K], 1 or 0.
        normalisation: 'equation': the mean over layers of the sum over valid keypoints, as equation 7 is printed;
            'keypoints': the sum over layers of the mean over valid keypoints, as the public code has it, so that a
            face of 68 keypoints counts no more than a body of 14.

    Returns:
        [B].
    """
    distance = (predicted.float() - target).abs().sum(-1) * valid  # [L, B, K]
    if normalisation == "equation":
        return distance.sum(-1).mean(0)
    return distance.sum(-1).sum(0) / valid.sum(-1).clamp(min=1.0)


def proposal_loss(mean: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The public code's loss of initial proposals: absolute differences, averaged over valid keypoints.

    Args:
        mean: [B, K, 2], expectation over the softmax of the whole similarity map.
        target: [B, K, 2].
        valid: [B, K], 1 or 0.

    Returns:
        [B].
    """
    distance = (mean.float() - target).abs().sum(-1) * valid
    return distance.sum(-1) / valid.sum(-1).clamp(min=1.0)


def matching_loss(similarity: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of the softmax over the similarity map and the heat map as a distribution; not in the paper.

    Equation 6 averages over cells, nearly all of which are empty, so what it says of the one that matters is small
    beside the other terms. This one speaks to the softmax that proposals are read off.

    Args:
        similarity: [B, K, H·W], raw.
        target: [B, K, H, W], from `target_heatmaps`.
        valid: [B, K], 1 or 0.

    Returns:
        [B], in nats, averaged over valid keypoints inside the map; 0 for samples without one.
    """
    cells = target.flatten(2)
    mass = cells.sum(-1, keepdim=True)
    share = cells / mass.clamp(min=1e-6)
    inside = valid * (mass.squeeze(-1) > 0)
    loss = -(share * similarity.float().log_softmax(-1)).sum(-1) * inside
    return loss.sum(-1) / inside.sum(-1).clamp(min=1.0)


APART = 1.5
"""Keypoints closer to each other than so many cells of the similarity map cannot be told apart on it."""


def keypoint_logits(similarity: Tensor, target: Tensor, size: int) -> Tensor:
    """Reads every keypoint's similarity map at the places of all keypoints of the query.

    Args:
        similarity: [B, K, H·W], raw.
        target: [B, K, 2], fractions of the crop.
        size: side of the map, in cells.

    Returns:
        float32 [B, K, K]: entry (k, j) is map k at the place of keypoint j, bilinear between cell centres.
    """
    maps = similarity.float().unflatten(-1, (size, size))
    grid = (target.float() * 2 - 1).unsqueeze(1)  # [B, 1, K, 2]
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False).squeeze(2)


def contrast_loss(logits: Tensor, target: Tensor, valid: Tensor, size: int) -> Tensor:
    """Cross-entropy of a keypoint's own place among the places of the query's keypoints; not in the paper.

    Most wrong answers lie on another keypoint of the same object. Keypoints too close to be told apart do not count
    as alternatives.

    Args:
        logits: [B, K, K], from `keypoint_logits`.
        target: [B, K, 2].
        valid: [B, K], 1 or 0.
        size: side of the similarity map, in cells.

    Returns:
        [B], in nats, averaged over valid keypoints.
    """
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others = (torch.cdist(target.float(), target.float()) * size >= APART) & (valid.unsqueeze(1) > 0)
    logits = logits.masked_fill(~(others | own), float("-inf"))
    loss = -logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    loss = torch.where(valid > 0, loss, 0.0)
    return loss.sum(-1) / valid.sum(-1).clamp(min=1.0)


def mirror_loss(logits: Tensor, target: Tensor, valid: Tensor, partner: Tensor, size: int) -> Tensor:
    """Cross-entropy between a keypoint's own place and that of its mirrored partner; not in the paper.

    Args:
        logits: [B, K, K], from `keypoint_logits`.
        target: [B, K, 2].
        valid: [B, K], 1 or 0.
        partner: int64 [B, K], the index of the mirrored partner, or a keypoint's own.
        size: side of the similarity map, in cells.

    Returns:
        [B], in nats, averaged over valid keypoints whose partner is valid too and lies apart; 0 without one.
    """
    own = logits.diagonal(dim1=-2, dim2=-1)
    other = logits.gather(-1, partner.unsqueeze(-1)).squeeze(-1)
    places = target.float().gather(1, partner.unsqueeze(-1).expand(-1, -1, 2))
    apart = (target.float() - places).norm(dim=-1) * size >= APART
    pairs = valid * valid.gather(-1, partner) * apart
    return (F.softplus(other - own) * pairs).sum(-1) / pairs.sum(-1).clamp(min=1.0)


def consistency_loss(text: Tensor, image: Tensor, valid: Tensor) -> Tensor:
    """Equation 5: squared distance of the two pathways' predictions, averaged over valid keypoints.

    Args:
        text, image: [B, K, 2], final predictions of the image-text and image-image pathways.
        valid: [B, K], 1 where the image-text pathway's keypoint is valid.

    Returns:
        [B].
    """
    distance = (text.float() - image.float()).square().sum(-1) * valid
    return distance.sum(-1) / valid.sum(-1).clamp(min=1.0)


class Losses(NamedTuple):
    """Means over a batch, without weights.

    Attributes:
        heatmap, offset, proposal: summed over the pathways of decision-level fusion, each with the keypoints that
            it knows.
        consistency: 0 where there is one pathway.
        matching, contrast, mirror: summed like the first three.
    """

    heatmap: Tensor
    offset: Tensor
    proposal: Tensor
    consistency: Tensor
    matching: Tensor
    contrast: Tensor
    mirror: Tensor


class PathwayPrediction(NamedTuple):
    """What the losses need of a pathway.

    Attributes:
        keypoints: [L, B, K, 2].
        similarity: [B, K, H·W].
        mean: [B, K, 2].
        valid: [B, K], keypoints that it knows and that are visible in the query.
    """

    keypoints: Tensor
    similarity: Tensor
    mean: Tensor
    valid: Tensor


def pose_losses(
    pathways: tuple[PathwayPrediction, ...],
    target: Tensor,
    size: int,
    normalisation: OffsetNormalisation = "equation",
    partner: Tensor | None = None,
) -> Losses:
    """All losses of a batch; of two pathways the image's comes first.

    Args:
        pathways: one, or two for decision-level fusion.
        target: [B, K, 2], fractions of the crop.
        size: side of the similarity maps, in cells.
        normalisation: as in `offset_loss`.
        partner: int64 [B, K], as in `mirror_loss`; None: no keypoint has one.
    """
    if partner is None:
        partner = torch.arange(target.shape[1], device=target.device).expand(target.shape[:2])
    heatmaps = target_heatmaps(target, size)
    heatmap = sum((heatmap_loss(p.similarity, heatmaps, p.valid) for p in pathways), target.new_zeros(len(target)))
    offset = sum(
        (offset_loss(p.keypoints, target, p.valid, normalisation) for p in pathways), target.new_zeros(len(target))
    )
    proposal = sum((proposal_loss(p.mean, target, p.valid) for p in pathways), target.new_zeros(len(target)))
    matching = sum((matching_loss(p.similarity, heatmaps, p.valid) for p in pathways), target.new_zeros(len(target)))
    contrast, mirror = target.new_zeros(len(target)), target.new_zeros(len(target))
    for pathway in pathways:
        logits = keypoint_logits(pathway.similarity, target, size)
        contrast = contrast + contrast_loss(logits, target, pathway.valid, size)
        mirror = mirror + mirror_loss(logits, target, pathway.valid, partner, size)
    consistency = target.new_zeros(len(target))
    if len(pathways) > 1:
        image, text = pathways
        # Where the image pathway knows nothing its answer is no prediction to be consistent with.
        consistency = consistency_loss(text.keypoints[-1], image.keypoints[-1], text.valid * image.valid)
    each = (heatmap, offset, proposal, consistency, matching, contrast, mirror)
    return Losses(*(loss.mean() for loss in each))
