"""A published .pth file, with or without its text tower, becomes one of our checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cape.checkpoints import CheckpointError
from cape.pretrained.packages import MINILM_PACKAGE, PretrainedError, package_folder
from cape.published.reading import open_published
from tests import golden_models as golden
from tests.cape.pretrained.test_text_encoders import GTE_CONFIG, folder_with, openai_clip_state, original_gte_state


@pytest.fixture(scope="module")
def capex_state() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in golden.load("capex_t").state.items()}


def narrowed(state: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    return state | {"keypoint_head.text_proj.weight": torch.randn(256, width)}


def written(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save({"state_dict": state, "meta": {}}, path)
    return path


def test_a_gte_tower_in_the_file_is_found_and_loaded(capex_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    tower = original_gte_state()
    state = narrowed(capex_state, 128) | {f"text_backbone.new.{key}": value for key, value in tower.items()}
    tokenizer = package_folder(MINILM_PACKAGE) / "model" / "tokenizer.json"
    checkpoint, recognised = open_published(written(tmp_path / "capex.pth", state), tokenizer=tokenizer)
    assert "capex: swinv2-tiny, gte-base-en-v1.5 text of width 128, in the file, graph 'pre'" in recognised
    text = checkpoint.system.text_encoder
    assert text is not None
    stored = text.tower.state_dict()["embeddings.word_embeddings.weight"]
    torch.testing.assert_close(stored, tower["embeddings.word_embeddings.weight"])
    assert text.tower.config.num_hidden_layers == 2


def test_a_clip_tower_in_the_file_is_found_and_loaded(capex_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = narrowed(capex_state, 24) | {f"text_backbone.model.{k}": v for k, v in openai_clip_state().items()}
    path = written(tmp_path / "capex_clip.pth", state)
    with pytest.raises(PretrainedError, match=r"needs its tokenizer: give its tokenizer\.json"):
        open_published(path)
    tokenizer = package_folder(MINILM_PACKAGE) / "model" / "tokenizer.json"
    checkpoint, recognised = open_published(path, tokenizer=tokenizer)
    assert "clip text of width 24, in the file" in recognised
    assert checkpoint.system.configuration.text is not None
    assert checkpoint.system.configuration.text.pooling == "projection"


def test_a_file_without_its_tower_asks_for_the_folder_and_takes_it(
    capex_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = written(tmp_path / "capex.pth", narrowed(capex_state, 128))
    with pytest.raises(PretrainedError, match=r"brings no text encoder: .*config\.json, tokenizer\.json"):
        open_published(path)
    (tmp_path / "gte").mkdir()
    folder = folder_with(tmp_path / "gte", GTE_CONFIG, original_gte_state())
    checkpoint, recognised = open_published(path, text_encoder=folder)
    assert checkpoint.tokenizer == folder / "tokenizer.json"
    assert "in the file" not in recognised
    with pytest.raises(PretrainedError, match="texts of width 128, but the checkpoint projects 768"):
        open_published(written(tmp_path / "wide.pth", capex_state), text_encoder=folder)


def test_missing_keys_of_a_tower_are_named(capex_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    tower = original_gte_state()
    del tower["encoder.layer.1.mlp.down_proj.bias"]
    state = narrowed(capex_state, 128) | {f"text_backbone.{key}": value for key, value in tower.items()}
    tokenizer = package_folder(MINILM_PACKAGE) / "model" / "tokenizer.json"
    with pytest.raises(CheckpointError, match=r"missing \(1\): text_encoder\.tower\.layers\.1\.mlp\.down_proj\.bias"):
        open_published(written(tmp_path / "cut.pth", state), tokenizer=tokenizer)


def test_published_models_count_keypoints_that_all_shots_see_unless_told_otherwise(tmp_path: Path) -> None:
    state = {key: torch.from_numpy(value) for key, value in golden.load("graphcape_t_mlp").state.items()}
    path = written(tmp_path / "graphcape.pth", state)
    features, keypoints = torch.randn(1, 2, 768, 8, 8), torch.rand(1, 2, 3, 2)
    visible = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    as_published, _ = open_published(path)
    _, mask = as_published.system.fuse_support(features, keypoints, visible)
    assert mask.tolist() == [[[1.0, 0.0, 0.0]]]
    any_shot, _ = open_published(path, shot_visibility="any")
    _, mask = any_shot.system.fuse_support(features, keypoints, visible)
    assert mask.tolist() == [[[1.0, 1.0, 0.0]]]
