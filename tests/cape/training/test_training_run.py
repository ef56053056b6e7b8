"""Whole runs: they learn, they end, they go on where they were."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cape.checkpoints import load_checkpoint, untrained
from cape.configuration import BackboneConfiguration, HeadConfiguration
from cape.data.dataset import DatasetError
from cape.pretrained.packages import EFFICIENTNET_PACKAGE
from cape.training.run import train
from cape.training.state import STATE_FILE, TrainingStateError, load_state

Make = Callable[..., Any]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_clock(row: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in row.items() if key not in ("pairs_per_second", "minutes")}


def test_a_run_resumed_after_a_kill_is_the_run_that_was_not_killed(settings: Make, quiet: Any, tmp_path: Path) -> None:
    # Dropout, stochastic depth in a trained backbone, dropped modalities and accumulation: all that is random.
    configuration = settings(
        model={"modality_dropout": True},
        towers={"train_image": True},
        modality_dropout={"image": 0.3, "text": 0.3},
        accumulation=2,
        logging={"every_steps": 1, "tensorboard": False, "save_seconds": 1e-9},
    )
    train(configuration, tmp_path / "straight", quiet().reporting)
    # The state of step 3 is on disk when step 4 is killed; its row is in the log already.
    with pytest.raises(InterruptedError):
        train(configuration, tmp_path / "killed", quiet(fail_after=4).reporting)
    assert load_state(tmp_path / "killed").step == 3
    assert len(rows(tmp_path / "killed" / "train.csv")) == 4
    assert train(configuration, tmp_path / "killed", quiet().reporting, resume=True) == 6

    straight, resumed = weights(tmp_path / "straight" / "last"), weights(tmp_path / "killed" / "last")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    one, other = (load_state(tmp_path / name).optimizer["state"] for name in ("straight", "killed"))
    assert all(torch.equal(one[index]["exp_avg_sq"], other[index]["exp_avg_sq"]) for index in one)
    logs = [rows(tmp_path / name / "train.csv") for name in ("straight", "killed")]
    assert [row["step"] for row in logs[1]] == ["1", "2", "3", "4", "5", "6"]
    assert [without_clock(row) for row in logs[0]] == [without_clock(row) for row in logs[1]]


def test_later_blocks_train_on_cached_maps_of_the_first_and_are_stored(
    settings: Make, quiet: Any, tmp_path: Path
) -> None:
    package = f"package:{EFFICIENTNET_PACKAGE}"
    configuration = settings(
        model={
            "backbone": BackboneConfiguration(kind="efficientnet_lite0", image_size=64, weights=package),
            "head": HeadConfiguration(width=32, heads=2, feedforward=32, gate_width=8, similarity_size=4),
        },
        towers={"train_image": True, "frozen_blocks": 10},
        features="cached",
        cache_folder=tmp_path / "features",
        schedule={"kind": "cosine", "steps": 2, "warmup_steps": 0},
        validation=[{"data": settings().sources[0].data}],
    )
    train(configuration, tmp_path / "run", quiet().reporting)
    (maps,) = (tmp_path / "features").glob("*/features.npy")
    assert np.load(maps, mmap_mode="r").shape[1:] == (112, 4, 4)
    before = untrained(configuration.model).state_dict()
    after = load_checkpoint(tmp_path / "run" / "last")
    assert after.system.configuration.backbone.weights == "stored"
    changed = {
        int(key.split(".")[3])
        for key, value in after.system.state_dict().items()
        if key.startswith("image_backbone.network._blocks") and not torch.equal(value, before[key])
    }
    assert changed == set(range(10, 16))


def test_a_run_ends_when_it_is_asked_to_and_saves_its_state(settings: Make, quiet: Any, tmp_path: Path) -> None:
    listener = quiet(stop_after=2)
    assert train(settings(), tmp_path, listener.reporting) == 2
    assert load_state(tmp_path).step == 2
    assert [report.step for report in listener.reports] == [1, 2]


def test_time_may_end_a_run(settings: Make, quiet: Any, tmp_path: Path) -> None:
    schedule = {"kind": "cosine", "by": "time", "max_minutes": 1 / 60, "warmup_steps": 0}
    listener = quiet()
    steps = train(settings(schedule=schedule), tmp_path, listener.reporting)
    state = load_state(tmp_path)
    assert steps == state.step >= 1 and 1 <= state.seconds < 30
    assert listener.reports[-1].progress == pytest.approx(1.0)


def test_frozen_towers_stay_as_they_are_and_trained_ones_do_not(settings: Make, quiet: Any, tmp_path: Path) -> None:
    schedule = {"kind": "multistep", "steps": 2, "warmup_steps": 0}
    for trained in ("image", "text"):
        towers = {"train_image": trained == "image", "train_text": trained == "text"}
        train(settings(towers=towers, schedule=schedule), tmp_path / trained, quiet().reporting)
    image, text = weights(tmp_path / "image" / "last"), weights(tmp_path / "text" / "last")
    changed = {key for key in image if not torch.equal(image[key], text[key])}
    assert any(key.startswith("image_backbone.") for key in changed)
    assert any(key.startswith("text_encoder.") for key in changed)
    frozen = weights_of_frozen(settings, quiet, tmp_path / "none", schedule)
    for key, value in frozen.items():
        if key.startswith("image_backbone."):
            assert torch.equal(value, text[key])
        if key.startswith("text_encoder."):
            assert torch.equal(value, image[key])
    assert not torch.equal(frozen["input_proj.weight"], image["input_proj.weight"])


def weights_of_frozen(settings: Make, quiet: Any, folder: Path, schedule: dict[str, Any]) -> dict[str, torch.Tensor]:
    train(settings(schedule=schedule), folder, quiet().reporting)
    return weights(folder / "last")


@pytest.mark.parametrize(
    ("system", "changes"),
    [("dlf", {}), ("capex", {}), ("graphcape", {"text": None}), ("textual_only", {})],
)
def test_every_system_trains_and_its_checkpoint_opens(
    system: str, changes: dict[str, Any], settings: Make, quiet: Any, tmp_path: Path
) -> None:
    configuration = settings(
        model={"system": system, **changes}, schedule={"kind": "cosine", "steps": 2, "warmup_steps": 0}
    )
    train(configuration, tmp_path, quiet().reporting)
    checkpoint = load_checkpoint(tmp_path / "last")
    assert checkpoint.system.configuration.trained
    row = rows(tmp_path / "train.csv")[-1]
    assert (float(row["consistency"]) > 0) == (system == "dlf")


def test_several_shots_and_an_epoch_as_published(settings: Make, quiet: Any, tmp_path: Path) -> None:
    # Two categories of four objects: eight episodes, in batches of two.
    schedule = {"kind": "multistep", "epochs": 2, "warmup_steps": 0}
    assert train(settings(shots=2, schedule=schedule), tmp_path, quiet().reporting) == 8


def test_a_run_is_not_overwritten_and_not_resumed_as_another(settings: Make, quiet: Any, tmp_path: Path) -> None:
    short = {"kind": "cosine", "steps": 1, "warmup_steps": 0}
    with pytest.raises(TrainingStateError, match="there is no run to resume"):
        train(settings(), tmp_path, quiet().reporting, resume=True)
    train(settings(schedule=short), tmp_path, quiet().reporting)
    with pytest.raises(TrainingStateError, match="holds a run already"):
        train(settings(), tmp_path, quiet().reporting)
    with pytest.raises(TrainingStateError, match="batch_size is not what the run began with"):
        train(settings(batch_size=3), tmp_path, quiet().reporting, resume=True)
    (tmp_path / STATE_FILE).write_bytes(b"not a state")
    with pytest.raises(TrainingStateError, match="not a saved state"):
        train(settings(), tmp_path, quiet().reporting, resume=True)


def test_a_state_is_read_without_running_code_from_it(tmp_path: Path) -> None:
    class Dangerous:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"step": Dangerous()}, tmp_path / STATE_FILE)
    with pytest.raises(TrainingStateError, match="not a saved state"):
        load_state(tmp_path)
    assert not (tmp_path / "touched").exists()


def test_optional_data_that_are_not_there_are_left_out_with_a_word(
    settings: Make, quiet: Any, dots: Path, tmp_path: Path
) -> None:
    there = {"data": {"kind": "coco", "annotations": str(dots), "skeleton_base": 0}}
    gone = {"data": {"kind": "coco", "annotations": "/nowhere/at_all.json"}, "optional": True}
    short = {"kind": "cosine", "steps": 1, "warmup_steps": 0}
    listener = quiet()
    train(settings(sources=[gone, there], schedule=short), tmp_path / "a", listener.reporting)
    assert any(note.startswith("Left out: /nowhere/at_all.json") for note in listener.notes)
    with pytest.raises(DatasetError, match="none is left"):
        train(settings(sources=[gone], schedule=short), tmp_path / "b", quiet().reporting)


def test_groups_encode_each_image_once_and_resume_like_any_run(settings: Make, quiet: Any, tmp_path: Path) -> None:
    configuration = settings(
        towers={"train_image": True},
        sources=[{**settings().sources[0].model_dump(), "flip": 0.5, "super_category_weights": {"dots": 2.0}}],
        group=3,
        rounds=2,
        batch_size=6,
        augmentation={"photometric": 0.5, "random_convolution": 0.5, "anonymous": 0.5},
        losses={"contrast": 0.5, "mirror": 0.5},
        schedule={"kind": "cosine", "steps": 3, "warmup_steps": 0},
        logging={"every_steps": 1, "tensorboard": False, "save_seconds": 1e-9},
    )
    train(configuration, tmp_path / "straight", quiet().reporting)
    with pytest.raises(InterruptedError):
        train(configuration, tmp_path / "killed", quiet(fail_after=2).reporting)
    train(configuration, tmp_path / "killed", quiet().reporting, resume=True)
    straight, resumed = weights(tmp_path / "straight" / "last"), weights(tmp_path / "killed" / "last")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert all(float(row["contrast"]) > 0 for row in rows(tmp_path / "straight" / "train.csv"))


def test_a_super_category_that_is_not_there_is_named(settings: Make, quiet: Any, tmp_path: Path) -> None:
    source = {**settings().sources[0].model_dump(), "super_category_weights": {"insects": 2.0}}
    with pytest.raises(DatasetError, match="super_category_weights: there is no insects"):
        train(settings(sources=[source]), tmp_path, quiet().reporting)
