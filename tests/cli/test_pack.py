from __future__ import annotations

import shutil

import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from cape.checkpoints import load_checkpoint
from cli.main import main


def test_a_packed_checkpoint_is_half_as_large_and_opens_with_rounded_weights(tiny_checkpoint, tmp_path):
    result = CliRunner().invoke(main, ["pack", str(tiny_checkpoint), "--output", str(tmp_path / "packed")])
    assert result.exit_code == 0, result.output
    before, after = load_checkpoint(tiny_checkpoint), load_checkpoint(tmp_path / "packed")
    assert after.system.configuration == before.system.configuration
    for (name, value), packed in zip(
        before.system.state_dict().items(), after.system.state_dict().values(), strict=True
    ):
        assert torch.equal(packed, value.half().to(value.dtype) if value.is_floating_point() else value), name
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tiny_checkpoint, tmp_path / "packed")]
    assert sizes[1] < 0.6 * sizes[0]


def test_weights_that_half_precision_cannot_hold_are_named(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "large")
    state = load_file(folder / "model.safetensors")
    state["input_proj.bias"][0] = 1e6
    save_file(state, folder / "model.safetensors")
    result = CliRunner().invoke(main, ["pack", str(folder), "--output", str(tmp_path / "packed")])
    assert result.exit_code == 1
    assert "input_proj.bias: float16 cannot hold its values" in result.stderr
    assert not (tmp_path / "packed").exists()


def test_a_checkpoint_is_not_packed_onto_itself(tiny_checkpoint):
    result = CliRunner().invoke(main, ["pack", str(tiny_checkpoint), "--output", str(tiny_checkpoint)])
    assert result.exit_code == 1
    assert "--output" in result.stderr


def test_a_packed_capellm_is_half_as_large_and_opens_with_rounded_weights(tiny_capellm, tmp_path):
    from cape.models.capellm.checkpoint import load_capellm

    result = CliRunner().invoke(main, ["pack", str(tiny_capellm.checkpoint), "--output", str(tmp_path / "packed")])
    assert result.exit_code == 0, result.output
    before, after = load_capellm(tiny_capellm.checkpoint).model, load_capellm(tmp_path / "packed").model
    for (name, value), packed in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert torch.equal(packed, value.half().to(value.dtype) if value.is_floating_point() else value), name
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tiny_capellm.checkpoint, tmp_path / "packed")]
    assert sizes[1] < 0.6 * sizes[0]
