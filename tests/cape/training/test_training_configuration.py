from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cape.training.configuration import TrainingConfigurationError, read_training_configuration

CONFIGURATIONS = Path(__file__).resolve().parents[3] / "configurations" / "training"

SMALLEST: dict[str, Any] = {
    "model": {"system": "graphcape", "text": None},
    "sources": [{"data": {"kind": "synthetic", "split": "train"}}],
    "schedule": {"steps": 5},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(SMALLEST | changes), encoding="utf-8")
    return path


def test_the_defaults_are_the_papers(tmp_path: Path) -> None:
    settings = read_training_configuration(written(tmp_path))
    assert settings.batch_size == 8 and settings.shots == 1
    assert settings.optimizer.kind == "adam" and settings.optimizer.learning_rate == 1e-5
    assert settings.losses.heatmap == 2.0 and settings.losses.offset_normalisation == "equation"
    assert settings.schedule.warmup_steps == 1000
    assert settings.augmentation.jitter.rotation_degrees == 15 and settings.augmentation.jitter.scale == 0.15


@pytest.mark.parametrize("name", ["mp100_flf", "mp100_dlf"])
def test_the_papers_configurations_are_table_3(name: str) -> None:
    variables = {"MP100": "/data/mp100", "SWIN_V2": "/data/swin.pth", "GTE_BASE": "/data/gte"}
    settings = read_training_configuration(CONFIGURATIONS / f"{name}.yaml", variables)
    model = settings.model
    assert f"mp100_{model.system}" == name
    assert (model.backbone.depths, model.backbone.heads) == ((2, 2, 18, 2), (3, 6, 12, 24))
    assert (model.backbone.embed_dim, model.backbone.drop_path_rate, model.backbone.image_size) == (96, 0.3, 256)
    assert (model.head.width, model.head.heads, model.head.feedforward, model.head.dropout) == (256, 8, 768, 0.1)
    assert (settings.schedule.epochs, settings.batch_size, settings.optimizer.learning_rate) == (200, 8, 1e-5)
    assert settings.towers.image_file == Path("/data/swin.pth")
    # What the public code has beside the printed equations.
    assert (settings.losses.proposal, settings.losses.offset_normalisation) == (1.0, "keypoints")
    jitter = settings.augmentation.jitter
    assert (jitter.rotation_distribution, jitter.scale_distribution) == ("normal", "normal")
    assert (jitter.rotation_degrees, jitter.scale, jitter.rotation_probability) == (15, 0.15, 0.6)


def test_the_demonstrations_configuration_reads_with_and_without_photographs(monkeypatch) -> None:
    monkeypatch.delenv("CAPESERVE_REAL_POSES", raising=False)
    path = CONFIGURATIONS / "demonstration.yaml"
    without = read_training_configuration(path)
    assert without.features == "cached" and without.model.modality_dropout
    photographs = [source for source in without.sources if source.data.kind == "coco"]
    assert photographs and all(source.optional for source in photographs)
    given = read_training_configuration(path, {"CAPESERVE_REAL_POSES": "/photographs.json"})
    assert any(getattr(source.data, "annotations", None) == Path("/photographs.json") for source in given.sources)


def test_the_demonstrations_second_part_goes_on_with_the_first(monkeypatch) -> None:
    monkeypatch.delenv("CAPESERVE_REAL_POSES", raising=False)
    first = read_training_configuration(CONFIGURATIONS / "demonstration.yaml")
    second = read_training_configuration(CONFIGURATIONS / "demonstration_backbone.yaml")
    assert second.model == first.model
    assert second.towers.initial_parts == ("head",) and second.towers.frozen_blocks > 0
    # What validates either was seen by neither.
    assert [source.held_out for source in second.validation] == [source.held_out for source in first.validation]
    assert all(source.hold_out == first.sources[0].hold_out for source in second.sources if source.data.kind == "coco")


def test_the_demonstrations_third_part_trains_all_layers_of_the_second(monkeypatch) -> None:
    monkeypatch.delenv("CAPESERVE_REAL_POSES", raising=False)
    second = read_training_configuration(CONFIGURATIONS / "demonstration_backbone.yaml")
    third = read_training_configuration(CONFIGURATIONS / "demonstration_gpu.yaml")
    assert third.model == second.model
    assert third.towers.train_image and third.towers.frozen_blocks == 0
    assert third.towers.initial_parts == ("image_backbone", "head")
    assert [source.held_out for source in third.validation] == [source.held_out for source in second.validation]


def test_the_demonstrations_fourth_part_randomises_what_the_third_ended_with() -> None:
    third = read_training_configuration(CONFIGURATIONS / "demonstration_gpu.yaml")
    fourth = read_training_configuration(CONFIGURATIONS / "demonstration_randomised.yaml", {"BACKDROPS": "/images"})
    stored = fourth.model.model_copy(update={"backbone": third.model.backbone})
    assert stored == third.model
    assert fourth.augmentation.photometric and fourth.losses.contrast and fourth.losses.mirror
    assert [source.held_out for source in fourth.validation] == [source.held_out for source in third.validation]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 4}, "batch: Extra inputs are not permitted"),
        ({"features": "cached"}, "set towers.train_image to false"),
        ({"towers": {"frozen_blocks": 8}}, "swinv2 cannot be split"),
        ({"towers": {"train_image": False, "frozen_blocks": 8}}, "the whole backbone is frozen"),
        (
            {
                "model": {"system": "graphcape", "text": None, "backbone": {"kind": "efficientnet_lite0"}},
                "towers": {"frozen_blocks": 12},
            },
            "12 are more than 11",
        ),
        ({"modality_dropout": {"image": 0.5}}, "graphcape has one modality only"),
        ({"modality_dropout": {"image": 0.7, "text": 0.7}}, "nothing would be left"),
        ({"model": {"system": "flf"}, "modality_dropout": {"text": 0.5}}, "set model.modality_dropout to true"),
        ({"group": 3, "rounds": 3}, "need a group of at least 4"),
        ({"group": 3, "batch_size": 8}, "8 is not a multiple of group"),
        ({"sources": []}, "sources: Tuple should have at least 1 item"),
        (
            {"sources": [{"data": {"kind": "coco", "annotations": "${NOT_SET_ANYWHERE}"}}]},
            "NOT_SET_ANYWHERE is not set",
        ),
        ({"model": {"system": "flf", "text": "package:not_there"}}, "weights are in the package not-there"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingConfigurationError, match=message.replace("(", r"\(")) as raised:
        read_training_configuration(written(tmp_path, **changes))
    assert str(raised.value).startswith(str(tmp_path / "run.yaml"))


def test_a_file_that_is_no_mapping_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("- 1", encoding="utf-8")
    with pytest.raises(TrainingConfigurationError, match="not a mapping"):
        read_training_configuration(path)
    with pytest.raises(TrainingConfigurationError, match=r"none\.yaml"):
        read_training_configuration(tmp_path / "none.yaml")
