"""Checkpoints come back as they were saved, or say what is wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cape.checkpoints import CheckpointError, load_checkpoint, save_checkpoint, untrained, untrained_checkpoint
from cape.configuration import BackboneConfiguration, ConfigurationError, SystemConfiguration
from cape.pretrained.packages import EFFICIENTNET_PACKAGE, MINILM_PACKAGE
from cape.pretrained.text_encoders import packaged_text_encoder
from tests.conftest import tiny_configuration


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path, tokenizer_file: Path) -> None:
    system = untrained(tiny_configuration(), seed=3)
    save_checkpoint(system, tmp_path, tokenizer_file)
    loaded = load_checkpoint(tmp_path)
    assert loaded.system.configuration == system.configuration
    assert loaded.tokenizer == tmp_path / "tokenizer.json"
    for name, value in system.state_dict().items():
        torch.testing.assert_close(loaded.system.state_dict()[name], value, atol=0, rtol=0)


def test_untrained_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = untrained(tiny_configuration(), seed=5).input_proj.weight
    torch.manual_seed(2)
    assert torch.equal(untrained(tiny_configuration(), seed=5).input_proj.weight, first)
    assert not torch.equal(untrained(tiny_configuration(), seed=6).input_proj.weight, first)


def test_half_precision_files_load_into_float32(tmp_path: Path, tokenizer_file: Path) -> None:
    save_checkpoint(untrained(tiny_configuration()), tmp_path, tokenizer_file, dtype=torch.float16)
    assert load_file(tmp_path / "model.safetensors")["input_proj.weight"].dtype == torch.float16
    assert load_checkpoint(tmp_path).system.input_proj.weight.dtype == torch.float32


def test_the_digest_changes_with_the_weights(folder: Path) -> None:
    before = load_checkpoint(folder).sha256
    state = load_file(folder / "model.safetensors")
    state["input_proj.bias"] += 1
    save_file(state, folder / "model.safetensors")
    assert load_checkpoint(folder).sha256 != before


def test_missing_unexpected_and_misshapen_keys_are_all_named(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["surprise.weight"] = state.pop("input_proj.weight")
    state["text_proj.bias"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "missing (1): input_proj.weight" in message
    assert "unexpected (1): surprise.weight" in message
    assert "of the wrong shape (1): text_proj.bias (3,) instead of (64,)" in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        load_checkpoint(folder)


def test_a_pickle_in_place_of_the_weights_is_not_opened(folder: Path) -> None:
    torch.save({"a": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file, or cut short"):
        load_checkpoint(folder)


def test_a_wrong_field_of_the_configuration_is_named(folder: Path) -> None:
    document = json.loads((folder / "config.json").read_text())
    document["head"]["heads"] = 0
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"config\.json: head\.heads: "):
        load_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: document: "):
        load_checkpoint(folder)


def test_a_configuration_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flf.json").write_text('{"system": "flf", "backbone": {"depth": 3}}')
    with pytest.raises(ConfigurationError, match=r"backbone\.depth: Extra inputs"):
        untrained_checkpoint(tmp_path / "flf.json")


def test_systems_that_read_no_text_need_no_tokenizer(tmp_path: Path) -> None:
    save_checkpoint(untrained(tiny_configuration(system="graphcape", text=None)), tmp_path)
    assert load_checkpoint(tmp_path).tokenizer is None


def test_towers_that_packages_hold_are_left_out_of_the_file(tmp_path: Path) -> None:
    configuration = SystemConfiguration(
        backbone=BackboneConfiguration(kind="efficientnet_lite0", weights=f"package:{EFFICIENTNET_PACKAGE}"),
        text=packaged_text_encoder(MINILM_PACKAGE).configuration,
    )
    save_checkpoint(untrained(configuration), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert not any(key.startswith(("image_backbone.", "text_encoder.")) for key in stored)
    loaded = load_checkpoint(tmp_path)
    assert loaded.system.configuration.trained is False
    # MiniLM's sentence embedding, from its own authors' recipe: mean over tokens, unit length.
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(loaded.tokenizer))
    encoder.no_padding()
    texts = ["left eye", "the left eye of the cat", "rear wheel"]
    vectors = []
    for text in texts:
        encoding = encoder.encode(text)
        ids, mask = torch.tensor([[encoding.ids]]), torch.tensor([[encoding.attention_mask]])
        with torch.inference_mode():
            vectors.append(loaded.system.encode_text(ids, mask)[0, 0])
    assert vectors[0] @ vectors[1] > 0.6 > vectors[0] @ vectors[2] + 0.2


def test_the_published_configuration_is_the_default() -> None:
    configuration = SystemConfiguration()
    assert configuration.backbone.name == "swinv2-small"
    assert configuration.backbone.channels == 768
    assert configuration.backbone.feature_size == 8
    assert configuration.text is not None
    assert configuration.text.dimension == 768
