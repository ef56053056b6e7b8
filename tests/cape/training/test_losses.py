"""The equations against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cape.training.losses import (
    PathwayPrediction,
    consistency_loss,
    contrast_loss,
    heatmap_loss,
    keypoint_logits,
    matching_loss,
    mirror_loss,
    offset_loss,
    pose_losses,
    proposal_loss,
    target_heatmaps,
)


def published_heatmap(x: float, y: float, size: int) -> np.ndarray:
    """The published target, cell by cell: Gaussian on 64×64, F.interpolate, divided by its peak."""
    heat = torch.zeros(1, 1, 64, 64)
    column, row = math.floor(x * 64 + 0.5), math.floor(y * 64 + 0.5)
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            if 0 <= row + dy < 64 and 0 <= column + dx < 64:
                heat[0, 0, row + dy, column + dx] = math.exp(-(dx * dx + dy * dy) / 2)
    small = F.interpolate(heat, size=(size, size), mode="bilinear")[0, 0]
    return (small / (small.max() + 1e-10)).numpy()


@pytest.mark.parametrize("point", [(0.5, 0.5), (0.1, 0.93), (0.0, 0.0), (1.0, 1.0), (0.337, 0.771)])
def test_target_maps_are_the_published_ones(point: tuple[float, float]) -> None:
    made = target_heatmaps(torch.tensor([[point]]), 16)[0, 0].numpy()
    np.testing.assert_allclose(made, published_heatmap(*point, 16), atol=1e-5)


def test_equation_6_by_hand() -> None:
    # Two keypoints on a 1 × 2 map, the second one hidden: sigmoid(0) = .5 against 1 and 0, so (.25 + .25) / 2.
    similarity = torch.tensor([[[0.0, 0.0], [9.0, 9.0]]])
    target = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]])
    assert heatmap_loss(similarity, target, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.25)
    # Both valid: the second adds sigmoid(9)² and the sum is divided by K = 2.
    expected = (0.25 + (1 / (1 + math.exp(-9))) ** 2) / 2
    assert heatmap_loss(similarity, target, torch.ones(1, 2)).item() == pytest.approx(expected)


def test_the_matching_term_is_a_cross_entropy_over_cells_by_hand() -> None:
    # A map that prefers the right cell by ln 3 gives it 3/4; the target wants 2/3 of the mass there and 1/3 beside it.
    similarity = torch.tensor([[[math.log(3.0), 0.0], [5.0, -5.0], [0.0, 0.0]]])
    target = torch.tensor([[[[1.0, 0.5]], [[1.0, 0.0]], [[0.0, 0.0]]]])
    expected = -(2 / 3 * math.log(3 / 4) + 1 / 3 * math.log(1 / 4))
    first, outside = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    assert matching_loss(similarity, target, first).item() == pytest.approx(expected)
    # A keypoint outside the map has no cell to point at.
    assert matching_loss(similarity, target, outside).item() == 0
    both = matching_loss(similarity, target, torch.tensor([[1.0, 1.0, 1.0]])).item()
    assert both == pytest.approx((expected + math.log(1 + math.exp(-10))) / 2, rel=1e-5)


def test_equation_7_by_hand() -> None:
    # Layer 1 is off by (.1, .2) and (.3, 0), layer 2 by (0, .1) and (.1, .1); sums over keypoints .6 and .3.
    target = torch.full((1, 2, 2), 0.5)
    layers = target + torch.tensor([[[[0.1, 0.2], [0.3, 0.0]]], [[[0.0, -0.1], [-0.1, 0.1]]]])
    both = torch.ones(1, 2)
    assert offset_loss(layers, target, both).item() == pytest.approx((0.6 + 0.3) / 2)
    assert offset_loss(layers, target, both, "keypoints").item() == pytest.approx((0.6 + 0.3) / 2, abs=1e-6)
    first = torch.tensor([[1.0, 0.0]])
    assert offset_loss(layers, target, first).item() == pytest.approx((0.3 + 0.1) / 2)
    assert offset_loss(layers, target, first, "keypoints").item() == pytest.approx(0.3 + 0.1)


def test_the_proposals_loss_is_a_mean_over_valid_keypoints() -> None:
    target = torch.zeros(1, 3, 2)
    mean = torch.tensor([[[0.1, 0.1], [0.2, 0.4], [0.9, 0.9]]])
    assert proposal_loss(mean, target, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx((0.2 + 0.6) / 2)


def test_equation_5_by_hand() -> None:
    image = torch.zeros(1, 3, 2)
    text = torch.tensor([[[0.3, 0.4], [0.1, 0.0], [0.5, 0.5]]])
    assert consistency_loss(text, image, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx((0.25 + 0.01) / 2)


def test_a_sample_without_a_valid_keypoint_has_no_loss_and_no_gradient() -> None:
    similarity = torch.randn(1, 2, 256, requires_grad=True)
    loss = heatmap_loss(similarity, torch.zeros(1, 2, 16, 16), torch.zeros(1, 2))
    loss.sum().backward()
    assert loss.item() == 0 and similarity.grad is not None and similarity.grad.abs().sum() == 0


def pathway(offset: float, valid: list[float]) -> PathwayPrediction:
    keypoints = torch.full((2, 1, 2, 2), 0.5) + offset
    return PathwayPrediction(keypoints, torch.zeros(1, 2, 256), keypoints[0], torch.tensor([valid]))


def test_two_pathways_each_answer_for_what_they_know() -> None:
    target = torch.full((1, 2, 2), 0.5)
    image, text = pathway(0.1, [1.0, 0.0]), pathway(-0.1, [1.0, 1.0])
    losses = pose_losses((image, text), target, 16)
    # |.1| over two axes, for one keypoint of the image's pathway and two of the text's.
    assert losses.offset.item() == pytest.approx(0.2 + 0.4)
    assert losses.proposal.item() == pytest.approx(0.2 + 0.2)
    # .2² over two axes, only where both know the keypoint.
    assert losses.consistency.item() == pytest.approx(2 * 0.2**2)
    assert losses.heatmap.item() == pytest.approx(
        2 * heatmap_loss(image.similarity, target_heatmaps(target, 16), image.valid).item(), rel=1e-4
    )


def test_one_pathway_has_nothing_to_be_consistent_with() -> None:
    losses = pose_losses((pathway(0.1, [1.0, 1.0]),), torch.full((1, 2, 2), 0.5), 16)
    assert losses.consistency.item() == 0


def peaked(size: int, *cells: tuple[int, int]) -> torch.Tensor:
    """Similarity maps [1, K, size²] that are 6 in one cell (column, row) each and 0 elsewhere."""
    maps = torch.zeros(1, len(cells), size, size)
    for keypoint, (column, row) in enumerate(cells):
        maps[0, keypoint, row, column] = 6.0
    return maps.flatten(2)


def test_a_map_is_read_at_the_places_of_all_keypoints() -> None:
    target = torch.tensor([[[1.5 / 8, 2.5 / 8], [6.5 / 8, 4.5 / 8]]])
    logits = keypoint_logits(peaked(8, (1, 2), (1, 2)), target, 8)
    assert logits[0].tolist() == [[6.0, 0.0], [6.0, 0.0]]


def test_contrast_is_the_cross_entropy_over_the_querys_keypoints_that_lie_apart() -> None:
    # Keypoint 2 lies in keypoint 0's cell, keypoint 3 is hidden: neither is an alternative to keypoint 0.
    target = torch.tensor([[[1.5 / 8, 2.5 / 8], [6.5 / 8, 4.5 / 8], [1.6 / 8, 2.5 / 8], [3.5 / 8, 0.5 / 8]]])
    valid = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    logits = keypoint_logits(peaked(8, (1, 2), (1, 2), (0, 0), (0, 0)), target, 8)
    right, wrong = math.log(1 + math.exp(-6)), math.log(1 + math.exp(6))
    assert contrast_loss(logits, target, valid, 8).item() == pytest.approx((right + wrong) / 2, rel=1e-5)
    together = contrast_loss(logits, target, torch.tensor([[1.0, 0.0, 1.0, 0.0]]), 8)
    assert together.item() == pytest.approx(0, abs=1e-6)


def test_the_mirror_loss_compares_a_keypoint_with_its_partner_alone() -> None:
    target = torch.tensor([[[1.5 / 8, 2.5 / 8], [6.5 / 8, 2.5 / 8], [3.5 / 8, 6.5 / 8]]])
    logits = keypoint_logits(peaked(8, (1, 2), (1, 2), (3, 6)), target, 8)
    partner = torch.tensor([[1, 0, 2]])
    right, wrong = math.log(1 + math.exp(-6)), math.log(1 + math.exp(6))
    everything = mirror_loss(logits, target, torch.ones(1, 3), partner, 8)
    assert everything.item() == pytest.approx((right + wrong) / 2, rel=1e-5)
    assert mirror_loss(logits, target, torch.tensor([[1.0, 0.0, 1.0]]), partner, 8).item() == 0
