"""A published GraphCape or CapeX checkpoint gives the numbers of its own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cape.checkpoints import CheckpointError
from cape.configuration import SystemConfiguration
from cape.published import read_published, recognise
from cape.published_layouts import PublishedCheckpointError, convert
from tests import golden_models as golden

EXPECTED = {
    "graphcape_t_mlp": ("capeformer", "swinv2-tiny", "none"),
    "capex_t": ("capex", "swinv2-tiny", "pre"),
    "graphcape_s_1shot": ("graphcape", "swinv2-small", "pre"),
}


@pytest.mark.parametrize("case", golden.CASES)
def test_a_published_checkpoint_answers_as_its_own_code(case: str) -> None:
    expected = golden.load(case)
    system = golden.published_system(expected.state)
    configuration = system.configuration
    assert (configuration.system, configuration.backbone.name, configuration.head.graph) == EXPECTED[case]

    with torch.inference_mode():
        features = system.encode_image(torch.from_numpy(expected.inputs["query"]))
    pose = golden.answer(system, expected)

    valid = expected.mask > 0
    np.testing.assert_array_equal(pose.scores.numpy() > 0, valid)
    np.testing.assert_allclose(features, expected.features, atol=2e-5)
    spread = expected.similarity[valid].std()
    assert np.abs(pose.similarity.numpy() - expected.similarity)[valid].max() < 1e-3 * spread
    proposals = pose.pathways[0].proposals.mean.numpy()
    np.testing.assert_allclose(proposals[valid], expected.proposals[valid], atol=1e-5)
    layers = pose.pathways[0].keypoints.numpy()
    np.testing.assert_allclose(layers[:, valid], expected.output[:, valid], atol=1e-5)
    np.testing.assert_array_equal(pose.keypoints, layers[-1])


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    shapes = golden.load("graphcape_t_mlp").state
    return {key: torch.from_numpy(value) for key, value in shapes.items()}


@pytest.mark.parametrize("graph", ["pre", "post", "both", "none"])
def test_every_graph_variant_is_recognised_and_converted(small_state: dict[str, torch.Tensor], graph: str) -> None:
    state = dict(small_state)
    for layer in range(3):
        stem = f"keypoint_head.transformer.decoder.layers.{layer}"
        for part, wanted, (inputs, outputs) in (
            ("ffn1", graph in ("pre", "both"), (256, 768)),
            ("ffn2", graph in ("post", "both"), (768, 256)),
        ):
            if wanted:
                del state[f"{stem}.{part}.weight"], state[f"{stem}.{part}.bias"]
                state[f"{stem}.{part}.conv.weight"] = torch.randn(2 * outputs, inputs, 1)
                state[f"{stem}.{part}.conv.bias"] = torch.randn(2 * outputs)
    system = golden.published_system({key: value.numpy() for key, value in state.items()})
    assert system.configuration.head.graph == graph


def test_widths_and_depths_are_read_off_the_shapes(small_state: dict[str, torch.Tensor]) -> None:
    shallow = {key: value for key, value in small_state.items() if "decoder.layers.2" not in key}
    shallow = {key: value for key, value in shallow.items() if "kpt_branch.2" not in key}
    configuration = recognise(shallow)
    assert configuration.head.decoder_layers == 2
    assert configuration.head.encoder_layers == 3
    assert configuration.backbone.depths == (2, 2, 6, 2)
    assert configuration.backbone.heads == (3, 6, 12, 24)


def test_a_narrow_head_is_converted_whole(small_state: dict[str, torch.Tensor]) -> None:
    """Every width of the head is a slice of the published one: 256 → 64, feed-forward 768 → 48, gate 128 → 24."""
    narrow = {256: 64, 512: 128, 768: 192, 1536: 384}
    state = {key: value for key, value in small_state.items() if key.startswith("backbone.")}
    for key, value in small_state.items():
        if key.startswith("keypoint_head."):
            shape = [narrow.get(size, size) for size in value.shape]
            if "input_proj.weight" in key or (key.endswith("query_proj.weight") and "generator" not in key):
                shape[1] = value.shape[1]
            feedforward = {"linear1": 0, "ffn1": 0, "linear2": 1, "ffn2": 1}
            for name, axis in feedforward.items():
                if f".{name}." in key and axis < len(shape):
                    shape[axis] = 48 if axis == 0 or len(shape) == 2 else shape[axis]
            if "dynamic_proj.0" in key:
                shape[0] = 24
            if "dynamic_proj.2.weight" in key:
                shape[1] = 24
            state[key] = torch.randn(shape) / 10
    system = golden.published_system({key: value.numpy() for key, value in state.items()})
    head = system.configuration.head
    assert (head.width, head.feedforward, head.gate_width, head.decoder_layers) == (64, 48, 24, 3)
    with torch.inference_mode():
        pose = system.decode_pose(
            torch.randn(1, 768, 8, 8), torch.randn(1, 1, 68, 64), torch.ones(1, 1, 68), torch.zeros(1, 68, 68)
        )
    assert pose.keypoints.shape == (1, 68, 2)
    assert torch.isfinite(pose.keypoints).all()


def test_a_partial_file_names_the_missing_keys(small_state: dict[str, torch.Tensor]) -> None:
    state = {key: value for key, value in small_state.items() if key != "backbone.norm.weight"}
    with pytest.raises(CheckpointError, match=r"missing \(1\): image_backbone\.network\.model\.layernorm\.weight"):
        golden.published_system({key: value.numpy() for key, value in state.items()})
    del state["keypoint_head.query_proj.weight"]
    with pytest.raises(PublishedCheckpointError, match=r"missing key 'keypoint_head\.query_proj\.weight'"):
        recognise(state)
    packed = "keypoint_head.transformer.encoder.layers.0.self_attn.in_proj_bias"
    state = {key: value for key, value in small_state.items() if key != packed}
    with pytest.raises(PublishedCheckpointError, match="missing key"):
        convert(state)


def test_a_checkpoint_of_another_system_is_refused(small_state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(PublishedCheckpointError, match="this is a capeformer checkpoint, not capex"):
        recognise(small_state, "capex")


def test_mmcv_files_are_read_without_running_code_from_them(tmp_path: Path) -> None:
    state = {"backbone.norm.weight": torch.ones(2), "keypoint_head.input_proj.bias": torch.ones(2)}
    torch.save(
        {"state_dict": state, "meta": {"best_score": np.float64(0.9)}, "optimizer": {"lr": 0.1}}, tmp_path / "good.pth"
    )
    assert set(read_published(tmp_path / "good.pth")) == set(state)

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": state, "meta": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(PublishedCheckpointError, match=r"evil\.pth: not a file of tensors"):
        read_published(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_files_that_are_no_checkpoint_say_so(tmp_path: Path) -> None:
    with pytest.raises(PublishedCheckpointError, match="no such file"):
        read_published(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(PublishedCheckpointError, match="not a file of tensors"):
        read_published(tmp_path / "text.pth")
    torch.save({"state_dict": {"module.weight": torch.ones(1)}}, tmp_path / "other.pth")
    with pytest.raises(PublishedCheckpointError, match=r"no key starts with 'backbone\.' \(found: module\)"):
        read_published(tmp_path / "other.pth")


def test_configurations_refuse_what_cannot_be_a_model() -> None:
    with pytest.raises(ValueError, match="capeformer has no graph"):
        SystemConfiguration(system="capeformer", text=None)
