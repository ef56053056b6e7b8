"""The parts of the model against their definitions, and the whole against the paper's counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cape.configuration import SystemConfiguration, TextConfiguration
from cape.models.cmaa_fusion import CrossModalAlignmentAttention
from cape.models.decoder import normalised_adjacency
from cape.models.pooling import KeypointPooling, interpolation_matrix
from cape.models.positions import map_encoding, sine_encoding
from cape.models.proposals import ProposalGenerator
from cape.models.swin import FoldedLayer, SwinV2, fold_constants
from cape.models.system import SWIN_CLASSIFIER_PARAMETERS, System, parameter_counts
from tests.conftest import tiny_configuration


@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({"system": "flf"}, 195.715),
        ({"system": "dlf"}, 203.742),
        ({"system": "capex"}, 195.519),
        ({"system": "graphcape", "text": None}, 58.742),
    ],
)
def test_parameters_are_those_of_table_5(changes: dict[str, object], millions: float) -> None:
    with torch.device("meta"):
        system = System(SystemConfiguration(**changes))
    total = sum(p.numel() for p in system.parameters()) + SWIN_CLASSIFIER_PARAMETERS
    assert round(total / 1e6, 3) == millions


def test_component_counts_add_up_but_for_the_projection_that_flf_shares() -> None:
    with torch.device("meta"):
        system = System(SystemConfiguration())
    shared = sum(p.numel() for p in system.input_proj.parameters())
    assert sum(parameter_counts(system).values()) == sum(p.numel() for p in system.parameters()) + shared


def test_gte_base_has_no_token_type_table() -> None:
    with torch.device("meta"):
        system = System(SystemConfiguration())
    assert system.text_encoder is not None
    assert sum(p.numel() for p in system.text_encoder.parameters()) == 136_776_192


def published_pooling(features: torch.Tensor, keypoints: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Pooling step by step as published: features [C, 8, 8], keypoints [K, 2] in 0–1 → [K, C]."""
    maps = F.interpolate(features[None], size=(16, 16), mode="bilinear", align_corners=False)
    maps = F.interpolate(maps, size=(64, 64), mode="bilinear", align_corners=False)[0]
    tokens = []
    for (x, y), seen in zip((keypoints * 256).tolist(), visible.tolist(), strict=True):
        heat = torch.zeros(64, 64)
        column, row = math.floor(x / 4 + 0.5), math.floor(y / 4 + 0.5)
        for i in range(max(0, row - 3), min(64, row + 4)):
            for j in range(max(0, column - 3), min(64, column + 4)):
                heat[i, j] = math.exp(-((i - row) ** 2 + (j - column) ** 2) / 2)
        heat = heat * seen / (heat.sum() + 1e-8)
        tokens.append((heat * maps).sum(dim=(1, 2)))
    return torch.stack(tokens)


def test_pooling_equals_the_published_heat_maps_also_at_the_border_and_outside() -> None:
    features = torch.randn(5, 8, 8)
    keypoints = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.999, 0.3], [1.02, 1.03], [-0.2, 0.5], [0.31, 0.77]])
    visible = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    pooling = KeypointPooling(8, 16)
    tokens = pooling(features[None, None], keypoints[None, None], visible[None, None])[0]
    torch.testing.assert_close(tokens, published_pooling(features, keypoints, visible), atol=2e-6, rtol=1e-5)


def test_shots_are_averaged_over_those_that_see_the_keypoint() -> None:
    features, keypoints = torch.randn(3, 4, 8, 8), torch.rand(3, 2, 2)
    visible = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    pooled = KeypointPooling(8, 16)(features[None], keypoints[None], visible[None])[0]
    singles = [published_pooling(features[s], keypoints[s], torch.ones(2)) for s in range(3)]
    torch.testing.assert_close(pooled[0], (singles[0][0] + singles[2][0]) / 2, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(pooled[1], singles[2][1], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("source", "target"), [(8, 16), (16, 64), (16, 16)])
def test_the_interpolation_matrix_is_bilinear_resizing(source: int, target: int) -> None:
    rows = torch.randn(3, source)
    expected = F.interpolate(rows[None], size=target, mode="linear", align_corners=False)[0]
    torch.testing.assert_close(rows @ interpolation_matrix(source, target).T, expected, atol=1e-6, rtol=1e-5)


def test_positions_put_y_first_and_turn_once_over_the_map() -> None:
    encoding = sine_encoding(torch.tensor([0.25, 0.5]), 8)
    slow = 2 * math.pi * 10000 ** (-0.5)
    expected = [math.sin(math.pi), math.cos(math.pi), math.sin(0.5 * slow), math.cos(0.5 * slow)]
    expected += [math.sin(math.pi / 2), math.cos(math.pi / 2), math.sin(0.25 * slow), math.cos(0.25 * slow)]
    np.testing.assert_allclose(encoding, expected, atol=1e-6)
    cells = map_encoding(16, 8)
    np.testing.assert_allclose(cells[-1, :2], [math.sin(2 * math.pi), 1.0], atol=2e-6)
    np.testing.assert_allclose(cells[15, :2], [math.sin(math.pi / 8), math.cos(math.pi / 8)], atol=1e-6)


def test_cmaa_is_equations_1_to_4() -> None:
    torch.manual_seed(0)
    module = CrossModalAlignmentAttention(6)
    with torch.no_grad():
        module.gamma.fill_(0.7)
    lead, other, ones = torch.randn(2, 4, 6), torch.randn(2, 4, 6), torch.ones(2, 4)
    fused, valid = module(lead, other, ones, ones)
    q, k, v = lead @ module.query.weight.T, other @ module.key.weight.T, other @ module.value.weight.T
    attention = ((q @ k.transpose(1, 2)) / math.sqrt(6)).softmax(-1)
    expected = lead + 0.7 * attention @ v
    expected = (expected - expected.mean(-1, keepdim=True)) / expected.std(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(fused, expected, atol=1e-4, rtol=1e-4)
    assert valid.min() == 1


def test_cmaa_never_looks_at_keypoints_that_lack_a_modality() -> None:
    torch.manual_seed(0)
    module = CrossModalAlignmentAttention(8)
    lead, other = torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    lead_valid, other_valid = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    before, valid = module(lead, other, lead_valid, other_valid)
    other[0, 2] = 100.0
    after, _ = module(lead, other, lead_valid, other_valid)
    assert valid.tolist() == [[1.0, 1.0, 0.0]]
    torch.testing.assert_close(before[:, :2], after[:, :2])


def test_cmaa_trained_with_dropout_describes_a_keypoint_by_what_there_is() -> None:
    module = CrossModalAlignmentAttention(8, tolerates_absence=True)
    lead, other = torch.randn(1, 2, 8), torch.randn(1, 2, 8)
    nothing, everything = torch.zeros(1, 2), torch.ones(1, 2)
    fused, valid = module(lead, other, everything, nothing)
    torch.testing.assert_close(fused, F.layer_norm(lead, (8,)))
    assert valid.min() == 1
    moved, _ = module(lead + 5 * torch.randn(1, 2, 8), other, nothing, everything)
    still, _ = module(lead, other, nothing, everything)
    torch.testing.assert_close(moved, still)


def test_a_peaked_similarity_map_proposes_its_peak_with_a_score_near_one() -> None:
    generator = ProposalGenerator(4, 2, 16)
    for layer in (generator.support_proj, generator.query_proj):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    image = torch.zeros(1, 256, 4)
    image[0, 3 * 16 + 9, 0] = 50.0
    proposals = generator(image, torch.tensor([[[1.0, 0, 0, 0]]]))
    np.testing.assert_allclose(proposals.peak[0, 0].detach(), [9.5 / 16, 3.5 / 16], atol=1e-5)
    assert proposals.confidence.item() > 0.99
    flat = generator(torch.zeros(1, 256, 4), torch.tensor([[[1.0, 0, 0, 0]]]))
    assert flat.confidence.item() == pytest.approx(4 / 256)  # a corner's neighbourhood: 2×2 of 256 equal cells


def test_adjacency_is_normalised_over_valid_neighbours_only() -> None:
    adjacency = torch.tensor([[[0.0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 1, 0]]])
    rows = normalised_adjacency(adjacency, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))[0]
    assert rows.tolist() == [[0, 0.5, 0.5, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_padding_keypoints_changes_nothing() -> None:
    torch.manual_seed(1)
    system = System(tiny_configuration()).eval()
    features = torch.randn(2, 128, 8, 8)
    tokens, mask = torch.randn(2, 1, 9, 64), torch.ones(2, 1, 9)
    adjacency = (torch.rand(2, 9, 9) > 0.5).float()
    adjacency = torch.maximum(adjacency, adjacency.transpose(1, 2))
    with torch.inference_mode():
        plain = system.decode_pose(features, tokens, mask, adjacency)
        padded = system.decode_pose(
            features, F.pad(tokens, (0, 0, 0, 15)), F.pad(mask, (0, 15)), F.pad(adjacency, (0, 15, 0, 15))
        )
    torch.testing.assert_close(padded.keypoints[:, :9], plain.keypoints, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded.scores[:, :9], plain.scores, atol=1e-5, rtol=0)
    assert padded.scores[:, 9:].abs().max() == 0


def test_a_support_that_describes_nothing_still_gives_finite_numbers() -> None:
    system = System(tiny_configuration()).eval()
    with torch.inference_mode():
        pose = system.decode_pose(
            torch.randn(1, 128, 8, 8), torch.zeros(1, 1, 4, 64), torch.zeros(1, 1, 4), torch.zeros(1, 4, 4)
        )
    assert torch.isfinite(pose.keypoints).all()
    assert pose.scores.abs().max() == 0


@pytest.mark.parametrize(("window", "folded"), [(16, 5), (12, 1)], ids=["tiled", "padded"])
def test_folding_changes_no_number(window: int, folded: int) -> None:
    torch.manual_seed(3)
    backbone = SwinV2(tiny_configuration().backbone.model_copy(update={"window": window})).eval()
    for name, parameter in backbone.named_parameters():
        if "bias_mlp" in name or "logit_scale" in name:  # away from their initial values, or nothing is tested
            torch.nn.init.normal_(parameter, std=0.5)
    pixels = torch.randn(2, 3, 256, 256)
    with torch.inference_mode():
        before = backbone(pixels)
        fold_constants(backbone)
        after = backbone(pixels)
    assert sum(isinstance(module, FoldedLayer) for module in backbone.modules()) == folded
    torch.testing.assert_close(after, before, atol=2e-5, rtol=1e-5)


def test_keypoints_without_text_have_no_embedding(tmp_path: object) -> None:
    system = System(tiny_configuration()).eval()
    ids, mask = torch.randint(1, 1000, (1, 3, 6)), torch.ones(1, 3, 6, dtype=torch.long)
    mask[0, 1] = 0
    mask[0, 2, 4:] = 0
    with torch.inference_mode():
        embeddings = system.encode_text(ids, mask)
        cut = system.encode_text(ids[:, 2:, :4], mask[:, 2:, :4])
    np.testing.assert_allclose(embeddings.norm(dim=-1)[0], [1, 0, 1], atol=1e-6)
    torch.testing.assert_close(embeddings[:, 2:], cut, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["gte", "clip"])
def test_other_text_towers_give_unit_vectors_that_ignore_padding(kind: str) -> None:
    small = {"vocab_size": 1000, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "pad_token_id": 0}  # fmt: skip
    extra: dict[str, object] = (
        {"type_vocab_size": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
        if kind == "gte"
        else {"projection_dim": 16, "bos_token_id": 998, "eos_token_id": 999}
    )
    text = TextConfiguration(
        kind=kind, name=kind, pooling="cls" if kind == "gte" else "projection", architecture=small | extra
    )
    system = System(tiny_configuration(system="capex", text=text)).eval()
    ids = torch.randint(1, 990, (1, 2, 6))
    ids[..., 3] = 999
    mask = torch.tensor([[[1, 1, 1, 1, 0, 0]] * 2])
    with torch.inference_mode():
        embeddings = system.encode_text(ids, mask)
        ids[..., 4:] = 7
        again = system.encode_text(ids, mask)
    np.testing.assert_allclose(embeddings.norm(dim=-1), 1, atol=1e-5)
    torch.testing.assert_close(embeddings, again, atol=1e-5, rtol=0)


def test_every_part_learns_from_every_pathway() -> None:
    torch.manual_seed(0)
    system = System(tiny_configuration(system="dlf"))
    tokens, mask = system.fuse_support(
        torch.randn(2, 1, 128, 8, 8),
        torch.rand(2, 1, 5, 2),
        torch.ones(2, 1, 5),
        F.normalize(torch.randn(2, 5, 32), dim=-1),
    )
    pose = system.decode_pose(torch.randn(2, 128, 8, 8), tokens, mask, torch.ones(2, 5, 5))
    loss = sum(p.keypoints.square().sum() + p.proposals.similarity.square().mean() for p in pose.pathways)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    outside = ("image_backbone", "text_encoder")
    silent = [n for n, p in system.named_parameters() if p.grad is None and not n.startswith(outside)]
    assert silent == []
