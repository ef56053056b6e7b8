"""Runs of `capeserve train` on pictures of dots."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from cape.models.capellm.checkpoint import load_capellm
from cape.training.capellm.configuration import CapeLlmTrainingConfiguration
from cli.main import main
from tests.cape.capellm.conftest import Learnt, tiny
from tests.cape.training.conftest import write_dots


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dots(tmp_path_factory.mktemp("dots"))


def document(dots: Path, instruction: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    data = {"kind": "coco", "annotations": str(dots), "skeleton_base": 0}
    return {
        "model": tiny(**(instruction or {})).model_dump(mode="json"),
        "sources": [{"data": data, "hold_out": 1}],
        "validation": [{"data": data, "held_out": 1, "objects": 1}],
        "rounds": 2,
        "batch_size": 2,
        "accumulation": 2,
        "precision": "float32",
        "schedule": {"kind": "cosine", "steps": 4, "warmup_steps": 1},
        "logging": {"every_steps": 2, "validate_steps": 4, "tensorboard": False},
    } | changes


def run(folder: Path, settings: dict[str, Any], *arguments: object, name: str = "out") -> Result:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return CliRunner().invoke(main, ["train", "--config", str(path), "--output", str(folder / name), *arguments])


@pytest.fixture(scope="module")
def trained(dots: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """As published: adapters on both towers, rounds that see each other."""
    folder = tmp_path_factory.mktemp("capellm")
    return run(folder, document(dots)), folder


def test_a_run_leaves_checkpoints_that_open_and_logs(trained: tuple[Result, Path]) -> None:
    result, folder = trained
    assert result.exit_code == 0, result.output
    assert "Validation at step 4" in result.stderr and "Stopped after step 4" in result.stderr
    with (folder / "out" / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    for name in ("best", "last"):
        assert load_capellm(folder / "out" / name).model.configuration.trained


def test_a_resumed_run_is_the_run_that_was_not_interrupted(dots: Path, tmp_path: Path) -> None:
    # A rate that does not follow the share of the run that is over: the first half does not know the whole.
    constant = {"kind": "multistep", "warmup_steps": 0, "milestones": [1.0]}
    whole = document(dots, schedule={**constant, "steps": 4})
    assert run(tmp_path, whole, name="whole").exit_code == 0
    assert run(tmp_path, document(dots, schedule={**constant, "steps": 2}), name="parts").exit_code == 0
    refused = run(tmp_path, whole, name="parts")
    assert refused.exit_code == 1 and "resume it" in refused.stderr
    resumed = run(tmp_path, whole, "--resume", name="parts")
    assert resumed.exit_code == 0 and "Resumed after step 2" in resumed.stderr
    states = [load_capellm(tmp_path / name / "last").model.state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    changed = run(tmp_path, {**whole, "rounds": 3}, "--resume", name="parts")
    assert changed.exit_code == 1 and "rounds is not what the run began with" in changed.stderr


def test_pretraining_moves_the_projection_alone_and_a_run_begins_with_it(dots: Path, tmp_path: Path) -> None:
    frozen = document(dots, task="direct_qa", vision="frozen", language="frozen", independent_rounds=True)
    assert run(tmp_path, frozen, name="pretrained").exit_code == 0
    begun = {"beginning": {"checkpoint": str(tmp_path / "pretrained" / "last")}}
    settings = document(dots, **begun, schedule={"steps": 1, "warmup_steps": 0})
    result = run(tmp_path, settings, name="tuned")
    assert result.exit_code == 0, result.output
    pretrained, tuned = (load_capellm(tmp_path / n / "last").model.state_dict() for n in ("pretrained", "tuned"))
    changed = {key for key, value in tuned.items() if not torch.equal(value, pretrained[key])}
    assert changed and all("q_proj" in key or "v_proj" in key or key.startswith("projection.") for key in changed)


def test_a_run_begins_with_pretrained_towers(learnt: Learnt, dots: Path, tmp_path: Path) -> None:
    configuration = tiny()
    vision = Dinov2Model(Dinov2Config(**configuration.vision.architecture))
    language = LlamaForCausalLM(LlamaConfig(**configuration.language.architecture))
    vision.save_pretrained(tmp_path / "dino")
    language.save_pretrained(tmp_path / "llama")
    learnt.tokenizer.tokenizer.save(str(tmp_path / "llama" / "tokenizer.json"))
    towers = {"vision_folder": str(tmp_path / "dino"), "language_folder": str(tmp_path / "llama")}
    settings = document(dots, {"answer": "token"}, beginning=towers, schedule={"steps": 1, "warmup_steps": 0})
    result = run(tmp_path, settings)
    assert result.exit_code == 0, result.output
    found = load_capellm(tmp_path / "out" / "last").model
    # Adapters' B begins at 0, and one step at the first rate moves it: the rest is as it was.
    for key, value in vision.state_dict().items():
        if "q_proj" not in key and "v_proj" not in key:
            assert torch.equal(found.vision.network.state_dict()[key], value), key
    assert torch.equal(found.language.lm_head.weight, language.lm_head.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "cached"}, "patches cannot be cached while the vision tower is trained"),
        ({"task": "direct_qa"}, "pre-training is of the projection alone"),
        ({"rounds": 0}, "rounds: Input should be greater than or equal to 1"),
        ({"beginning": {"checkpoint": "/nowhere"}}, "config.json: missing"),
        ({"beginning": {"tokenizer": "/nowhere.json"}}, "/nowhere.json: not a tokenizers JSON file"),
        ({"sources": [{"data": {"kind": "coco", "annotations": "/nowhere.json"}}]}, "/nowhere.json"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, Any], message: str, dots: Path, tmp_path: Path) -> None:
    result = run(tmp_path, document(dots, **changes))
    assert result.exit_code == 1
    assert message in result.stderr and "Traceback" not in result.output


def test_the_recorded_configurations_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from cape.training.capellm.configuration import read_capellm_training_configuration

    folder = Path(__file__).parents[3] / "configurations" / "training"
    for name in ("DINOV2_LARGE", "LLAMA_3_1_8B", "MP100"):
        monkeypatch.setenv(name, "somewhere")
    published = read_capellm_training_configuration(folder / "capellm_mp100.yaml")
    assert published.model.vision.tokens == 256 and published.lora.rank == 8 and published.rounds == 4
    # train.sh and mp100.py of the public code.
    assert (published.model.box_padding, published.model.instruction.newline) == (1.0, True)
    assert published.batch_size * published.accumulation == 128
    assert (published.optimizer.weight_decay, published.optimizer.clip_norm) == (0.01, 1.0)
    jitter = published.augmentation.jitter
    assert (jitter.rotation_degrees, jitter.rotation_probability, jitter.scale) == (40, 0.5, 0.3)
    tiny_one = read_capellm_training_configuration(folder / "capellm_tiny.yaml")
    assert tiny_one.model.vision.tokens == 64
    stored = CapeLlmTrainingConfiguration.model_validate_json(tiny_one.model_dump_json())
    assert stored == tiny_one
    assert json.loads(published.model_dump_json())["model"]["system"] == "capellm"
