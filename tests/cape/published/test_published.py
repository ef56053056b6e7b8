"""A published GraphCape or CapeX checkpoint gives the numbers of its own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cape.checkpoints import CheckpointError
from cape.configuration import SystemConfiguration
from cape.models.swin import SwinV2
from cape.published.key_names import PublishedCheckpointError, convert
from cape.published.reading import read_published
from cape.published.recognition import recognise
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


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module.model._orig_mod."])
def test_a_prefix_of_every_key_is_removed(tmp_path: Path, prefix: str) -> None:
    keys = ("backbone.norm.weight", "keypoint_head.input_proj.bias", "text_backbone.model.weight")
    torch.save({"state_dict": {prefix + key: torch.ones(2) for key in keys}}, tmp_path / "prefix.pth")
    assert set(read_published(tmp_path / "prefix.pth")) == set(keys)


def test_two_models_in_one_file_are_refused(tmp_path: Path) -> None:
    keys = ("backbone.norm.weight", "keypoint_head.input_proj.bias")
    state = {prefix + key: torch.ones(2) for key in keys for prefix in ("student.", "teacher.")}
    torch.save({"state_dict": state}, tmp_path / "two.pth")
    with pytest.raises(PublishedCheckpointError, match=r"several models, under 'student\.', 'teacher\.'"):
        read_published(tmp_path / "two.pth")


def test_parameters_of_no_known_part_are_refused(tmp_path: Path) -> None:
    keys = ("backbone.norm.weight", "keypoint_head.input_proj.bias", "refiner.weight")
    torch.save({"state_dict": {key: torch.ones(2) for key in keys}}, tmp_path / "extra.pth")
    with pytest.raises(PublishedCheckpointError, match=r"1 parameters belong to no known part .* 'refiner\.weight'"):
        read_published(tmp_path / "extra.pth")


def test_a_checkpoint_of_a_run_that_diverged_is_refused_by_the_parameter(
    small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    broken = small_state["keypoint_head.input_proj.bias"].clone()
    broken[3] = torch.nan
    torch.save({"state_dict": small_state | {"keypoint_head.input_proj.bias": broken}}, tmp_path / "nan.pth")
    with pytest.raises(PublishedCheckpointError, match=r"not a finite number in keypoint_head\.input_proj\.bias"):
        read_published(tmp_path / "nan.pth")


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("encoder_query.layer4.2.conv3.weight", "CapeFormer with its ResNet-50 encoders"),
        ("backbone.layer4.2.conv3.weight", "a ResNet backbone"),
        ("backbone.blocks.0.attn.qkv.weight", "a DINO or DINOv2 backbone"),
        ("backbone.model.visual.proj", "a CLIP image backbone"),
    ],
)
def test_a_backbone_that_is_not_supported_is_refused_by_name(tmp_path: Path, key: str, named: str) -> None:
    state = {key: torch.ones(1), "keypoint_head.input_proj.bias": torch.ones(2)}
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    with pytest.raises(PublishedCheckpointError, match=f"{named} .*is not supported; read are Swin V2 backbones"):
        read_published(tmp_path / "other.pth")


def position_table(window: int, pretrained: int) -> torch.Tensor:
    """Microsoft's relative_coords_table: [1, 2w − 1, 2w − 1, 2], logarithmic coordinates."""
    offsets = torch.arange(-(window - 1), window, dtype=torch.float32) / (pretrained - 1) * 8
    axis = offsets.sign() * (offsets.abs() + 1).log2() / 3
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).unsqueeze(0)


def test_positions_scaled_to_the_window_of_pretraining_stay_so(small_state: dict[str, torch.Tensor]) -> None:
    """swinv2_base_patch4_window12to16: windows of 16 (8 in the last stage), pretrained with 12 (6 in the last)."""
    state, windows = dict(small_state), [(16, 12), (16, 12), (16, 12), (8, 6)]
    for stage, (window, pretrained) in enumerate(windows):
        for block in range((2, 2, 6, 2)[stage]):
            key = f"backbone.layers.{stage}.blocks.{block}.attn.relative_coords_table"
            state[key] = position_table(window, pretrained)
    backbone = recognise(state).backbone
    assert backbone.pretrained_windows == (12, 12, 12, 6)
    model = SwinV2(backbone).model
    for stage, (window, pretrained) in enumerate(windows):
        attention = model.encoder.layers[stage].blocks[0].attention.self
        torch.testing.assert_close(attention.relative_coords_table, position_table(window, pretrained))
    assert recognise(small_state).backbone.pretrained_windows == ()
    state["backbone.layers.0.blocks.0.attn.relative_coords_table"] = position_table(16, 12) * 1.5
    with pytest.raises(PublishedCheckpointError, match="not the relative coordinates of any pretrained window"):
        recognise(state)


def test_files_that_are_no_checkpoint_say_so(tmp_path: Path) -> None:
    with pytest.raises(PublishedCheckpointError, match="no such file"):
        read_published(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(PublishedCheckpointError, match="not a file of tensors"):
        read_published(tmp_path / "text.pth")
    torch.save({"state_dict": {"module.weight": torch.ones(1)}}, tmp_path / "other.pth")
    with pytest.raises(PublishedCheckpointError, match=r"no key starts with 'backbone\.' \(found: weight\)"):
        read_published(tmp_path / "other.pth")


def test_configurations_refuse_what_cannot_be_a_model() -> None:
    with pytest.raises(ValueError, match="capeformer has no graph"):
        SystemConfiguration(system="capeformer", text=None)
