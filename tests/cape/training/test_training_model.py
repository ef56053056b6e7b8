"""The model in training: fused attention, frozen towers, the first step, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cape.checkpoints import untrained
from cape.configuration import BackboneConfiguration, HeadConfiguration
from cape.data.episodes import EpisodeBatch
from cape.models.attention import MultiHeadAttention, additive_mask
from cape.models.efficientnet import MOST_FIRST_BLOCKS
from cape.models.system import System
from cape.training.configuration import LossWeights
from cape.training.model import TrainedModel, initialise_head
from cape.training.standardisation import Standardisation
from tests.conftest import tiny_configuration


def tiny_system(**changes: Any) -> System:
    values: dict[str, Any] = {
        "backbone": BackboneConfiguration(
            image_size=64, embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4
        ),
        "head": HeadConfiguration(
            width=32, heads=2, feedforward=64, gate_width=16, encoder_layers=1, decoder_layers=2, similarity_size=8
        ),
    }
    system = untrained(tiny_configuration(**(values | changes)), seed=5)
    torch.manual_seed(5)  # whatever ran before
    initialise_head(system)
    return system


def batch(system: System, *, seed: int = 0, episodes: int = 4, count: int = 3) -> EpisodeBatch:
    """Episodes of random features."""
    generator = torch.Generator().manual_seed(seed)
    backbone = system.configuration.backbone
    shape = (backbone.channels, backbone.feature_size, backbone.feature_size)
    assert system.configuration.text is not None
    width = system.configuration.text.dimension
    adjacency = torch.zeros(episodes, count, count)
    adjacency[:, 0, 1] = adjacency[:, 1, 0] = 1
    return EpisodeBatch(
        query=torch.randn(episodes, *shape, generator=generator),
        support=torch.randn(episodes, 1, *shape, generator=generator),
        keypoints=torch.rand(episodes, 1, count, 2, generator=generator),
        visible=torch.ones(episodes, 1, count),
        adjacency=adjacency,
        target=torch.rand(episodes, count, 2, generator=generator),
        target_visible=torch.ones(episodes, count),
        partner=torch.arange(count).expand(episodes, count),
        texts=F.normalize(torch.randn(episodes, count, width, generator=generator), dim=-1),
    )


def test_a_tiny_model_learns_a_handful_of_episodes_by_heart() -> None:
    system = tiny_system()
    model = TrainedModel(system, LossWeights(proposal=1.0, offset_normalisation="keypoints"))
    episodes = batch(system)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    offsets = []
    for _ in range(150):
        total, losses = model(episodes)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        offsets.append(losses.offset.item())
    assert offsets[-1] < offsets[0] / 5


def test_fused_attention_is_the_written_out_one() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(32, 4, query_width=16).eval()
    query, key = torch.randn(2, 5, 16, requires_grad=True), torch.randn(2, 7, 32)
    mask = additive_mask(torch.tensor([[1.0] * 7, [1.0] * 4 + [0.0] * 3]))
    expected, weights = attention(query, key, key, mask)
    (gradient,) = torch.autograd.grad(expected.square().sum(), query)
    attention.fused = True
    fused, nothing = attention(query, key, key, mask)
    (fused_gradient,) = torch.autograd.grad(fused.square().sum(), query)
    torch.testing.assert_close(fused, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fused_gradient, gradient, atol=1e-5, rtol=1e-4)
    assert weights.shape == (2, 4, 5, 7) and nothing.shape == (2, 4, 5, 0)


def test_training_does_not_change_what_a_model_answers() -> None:
    system = tiny_system().eval()
    episodes = batch(system)

    def answer() -> torch.Tensor:
        with torch.inference_mode():
            tokens, mask = system.fuse_support(episodes.support, episodes.keypoints, episodes.visible, episodes.texts)
            return system.decode_pose(episodes.query, tokens, mask, episodes.adjacency).keypoints

    before = answer()
    TrainedModel(system, LossWeights()).eval()
    torch.testing.assert_close(answer(), before, atol=1e-5, rtol=1e-4)


def test_the_head_begins_with_its_proposals() -> None:
    system = tiny_system()
    model = TrainedModel(system, LossWeights()).eval()
    pose, _ = model.estimate(batch(system))
    torch.testing.assert_close(
        pose.keypoints, pose.proposals.clamp(1e-3, 1 - 1e-3), atol=2e-3, rtol=0, msg="no offset before the first step"
    )


def test_the_total_is_the_weighted_sum_of_equation_8_and_9() -> None:
    system = tiny_system(system="dlf")
    weights = LossWeights(heatmap=2.0, offset=0.5, proposal=0.25, consistency=3.0)
    total, losses = TrainedModel(system, weights).eval()(batch(system))
    expected = 2 * losses.heatmap + 0.5 * losses.offset + 0.25 * losses.proposal + 3 * losses.consistency
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.consistency.item() > 0


def test_a_frozen_tower_neither_trains_nor_drops_anything() -> None:
    system = tiny_system()
    model = TrainedModel(system, LossWeights(), train_image=False, train_text=True)
    model.train()
    assert not system.image_backbone.training
    assert system.text_encoder is not None and system.text_encoder.training
    assert not any(parameter.requires_grad for parameter in system.image_backbone.parameters())


def lite_system() -> System:
    """With a backbone that has batch norms, and running statistics that are no identity."""
    backbone = BackboneConfiguration(kind="efficientnet_lite0", image_size=64)
    head = HeadConfiguration(width=32, heads=2, feedforward=32, gate_width=8, encoder_layers=1, similarity_size=4)
    system = tiny_system(backbone=backbone, head=head)
    generator = torch.Generator().manual_seed(1)
    for module in system.image_backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) / 10)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return system


def pictures(system: System) -> EpisodeBatch:
    generator = torch.Generator().manual_seed(2)
    side = system.configuration.backbone.image_size
    query = torch.randint(0, 256, (4, side, side, 3), dtype=torch.uint8, generator=generator)
    return replace(batch(system), query=query, support=query.flip(0).unsqueeze(1))


def test_a_backbone_in_two_parts_is_the_whole_one() -> None:
    system = lite_system().eval()
    images = pictures(system).query
    with torch.no_grad():
        whole = system.encode_image(images)
        for blocks in (1, 8, MOST_FIRST_BLOCKS):
            halves = system.image_backbone.finish(system.image_backbone.begin(images, blocks), blocks)
            torch.testing.assert_close(halves, whole)


def test_a_batch_norm_that_gradients_flow_through_is_part_of_its_convolution() -> None:
    """And says the same of every parameter as it does by itself."""
    system = lite_system().eval()
    block = system.image_backbone.first_blocks(3)[-1]
    x = torch.randn(2, 24, 16, 16)
    with torch.no_grad():
        expected = block(x)
    torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)
    block(x).square().sum().backward()
    fused = {name: parameter.grad.clone() for name, parameter in block.named_parameters()}
    block.zero_grad()
    y = F.relu6(block._bn0(block._expand_conv(x)))
    y = F.relu6(block._bn1(block._depthwise_conv(y)))
    (block._bn2(block._project_conv(y)) + x).square().sum().backward()
    for name, parameter in block.named_parameters():
        torch.testing.assert_close(fused[name], parameter.grad, atol=1e-2, rtol=1e-3)


def test_only_the_later_blocks_are_trained_and_pictures_or_maps_are_the_same_to_them() -> None:
    system = lite_system()
    model = TrainedModel(system, LossWeights(proposal=1.0), train_image=True, frozen_blocks=8).eval()
    episodes = pictures(system)
    with torch.no_grad():
        maps = replace(
            episodes,
            query=system.image_backbone.begin(episodes.query, 8),
            support=system.image_backbone.begin(episodes.support[:, 0], 8).unsqueeze(1),
        )
    (total, _), (same, _) = model(episodes), model(maps)
    torch.testing.assert_close(same, total)
    total.backward()
    trained = {name.split(".")[2] for name, p in system.image_backbone.named_parameters() if p.grad is not None}
    assert trained == {str(number) for number in range(8, 16)}
    model.train()
    assert not any(m.training for m in system.image_backbone.modules() if isinstance(m, nn.BatchNorm2d))


def test_a_backbone_may_learn_from_queries_alone() -> None:
    system = lite_system()
    episodes = pictures(system)

    def gradient(support_gradient: bool) -> torch.Tensor:
        model = TrainedModel(
            system, LossWeights(proposal=1.0), train_image=True, frozen_blocks=8, support_gradient=support_gradient
        ).eval()
        system.zero_grad()
        model(episodes)[0].backward()
        last = [p.grad for p in system.image_backbone.parameters() if p.grad is not None][-1]
        return last.clone()

    both, alone = gradient(True), gradient(False)
    assert alone.abs().max() > 0 and not torch.allclose(both, alone)


def test_keypoints_that_the_support_does_not_describe_cost_nothing() -> None:
    system = tiny_system()
    model = TrainedModel(system, LossWeights(proposal=1.0)).eval()
    episodes = batch(system)
    episodes.visible[:] = 0
    total, _ = model(episodes)
    assert total.item() == 0


def test_autocast_computes_in_bfloat16_and_answers_nearly_the_same() -> None:
    system = tiny_system()
    episodes = batch(system)
    exact, _ = TrainedModel(system, LossWeights()).eval()(episodes)
    rough, _ = TrainedModel(system, LossWeights(), autocast=torch.bfloat16).eval()(episodes)
    assert rough.item() != exact.item()
    assert rough.item() == pytest.approx(exact.item(), rel=0.2)


@pytest.mark.parametrize(("system", "changes"), [("flf", {}), ("dlf", {}), ("graphcape", {"text": None})])
def test_standardised_features_are_folded_into_the_checkpoint(system: str, changes: dict[str, Any]) -> None:
    model_system = tiny_system(system=system, **changes)
    episodes = batch(tiny_system())
    channels = torch.arange(1.0, episodes.query.shape[1] + 1)[:, None, None]
    raw = replace(episodes, query=episodes.query * channels + channels, support=episodes.support * channels + channels)
    standardisation = Standardisation(raw.query)
    model = TrainedModel(model_system, LossWeights(), standardisation=standardisation).eval()
    with torch.no_grad():
        trained, mask = model.estimate(raw)
        before = {key: value.clone() for key, value in model_system.state_dict().items()}
        with standardisation.folded(model_system):
            inputs = {"features": raw.support, "keypoints": raw.keypoints, "visible": raw.visible}
            if model_system.configuration.reads_text:
                inputs["embeddings"] = raw.texts
            tokens, _ = model_system.fuse_support(**inputs)
            served = model_system.decode_pose(raw.query, tokens, mask, raw.adjacency)
    torch.testing.assert_close(served.similarity, trained.similarity, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(served.keypoints, trained.keypoints, atol=1e-4, rtol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in model_system.state_dict().items())


def test_a_head_that_read_raw_features_goes_on_with_standardised_ones() -> None:
    system = tiny_system()
    raw = torch.randn(4, system.configuration.backbone.channels, 2, 2) * 7 + 3
    standardisation = Standardisation(raw)
    with torch.no_grad():
        before = system.input_proj(raw.flatten(2).transpose(1, 2))
        standardisation.unfold(system)
        after = system.input_proj(standardisation(raw).flatten(2).transpose(1, 2))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_shared_images_give_what_separate_ones_give() -> None:
    system = tiny_system()
    model = TrainedModel(system, LossWeights()).eval()
    separate = batch(system)
    assert separate.support is not None
    images = torch.cat((separate.query, separate.support[:, 0]))
    shared = replace(
        separate, query=images, support=None, query_index=torch.arange(4), support_index=torch.arange(4, 8)[:, None]
    )
    with torch.inference_mode():
        torch.testing.assert_close(model(shared)[0], model(separate)[0])


def test_autocast_leaves_coordinates_in_float32() -> None:
    system = tiny_system()
    model = TrainedModel(system, LossWeights(), autocast=torch.bfloat16).eval()
    with torch.inference_mode():
        pose, _ = model.estimate(batch(system))
    for values in (pose.keypoints, pose.proposals, pose.scores):
        assert values.dtype == torch.float32
        # Numbers that passed through bfloat16 would be unchanged by another rounding to it.
        assert not torch.equal(values, values.bfloat16().float())
