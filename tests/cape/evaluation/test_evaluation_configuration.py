from __future__ import annotations

from pathlib import Path

import pytest

from cape.data.sources import CocoSource, Mp100Source, SyntheticSource
from cape.evaluation.configuration import EvaluationConfigurationError, read_configuration

CONFIGURATIONS = Path(__file__).resolve().parents[3] / "configurations" / "evaluation"

COCO = {"kind": "coco", "annotations": "a.json"}


def test_flags_alone_are_enough():
    configuration = read_configuration(None, {"checkpoint": "c", "data": {"annotations": "a.json"}})
    assert configuration.data == CocoSource(annotations=Path("a.json"))
    assert (configuration.shots, configuration.episodes, configuration.queries, configuration.seed) == (1, 200, 15, 1)


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("checkpoint: c\nshots: 5\nepisodes: 7\ndata: {kind: coco, annotations: a.json, split: val}\n")
    configuration = read_configuration(path, {"repository": "r", "shots": 2, "data": {"split": "test"}})
    assert (configuration.checkpoint, configuration.repository) == (None, Path("r"))
    assert (configuration.shots, configuration.episodes) == (2, 7)
    assert configuration.data == CocoSource(annotations=Path("a.json"), split="test")


def test_another_kind_of_data_replaces_the_files(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("target: here\ndata: {kind: synthetic, seed: 4}\n")
    assert read_configuration(path, {"data": COCO}).data == CocoSource(annotations=Path("a.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": COCO}, "one of checkpoint, repository, target and baseline is needed, not none"),
        ({"data": COCO, "checkpoint": "c", "target": "t"}, "not checkpoint and target"),
        ({"checkpoint": "c"}, "data.annotations: Field required"),
        ({"checkpoint": "c", "data": COCO, "shots": -1}, "shots: Input should be greater"),
        ({"checkpoint": "c", "data": COCO, "variations": ["blurred"]}, "variations.0: Input should be 'paraphrased'"),
        ({"checkpoint": "c", "data": {**COCO, "fold": 2}}, "data.fold: Extra inputs"),
    ],
)
def test_what_is_missing_or_wrong_is_named(changes, message):
    with pytest.raises(EvaluationConfigurationError) as caught:
        read_configuration(None, changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "data: {", "data: 3\n"])
def test_a_file_that_is_none_is_refused_by_name(tmp_path, text):
    path = tmp_path / "e.yaml"
    path.write_text(text)
    with pytest.raises(EvaluationConfigurationError, match=r"e\.yaml: "):
        read_configuration(path, {"checkpoint": "c"})


def test_the_shipped_configurations_are_complete_but_for_paths():
    person = read_configuration(
        CONFIGURATIONS / "coco_person.yaml", {"target": "t", "data": {"annotations": "a.json", "images": "i"}}
    )
    assert isinstance(person.data, CocoSource)
    assert person.data.one_object_per_image and person.data.categories == ("person",)
    mp100 = read_configuration(
        CONFIGURATIONS / "mp100.yaml", {"target": "t", "data": {"annotations": "a", "images": "i", "fold": 2}}
    )
    assert isinstance(mp100.data, Mp100Source) and mp100.data.fold == 2
    robustness = read_configuration(CONFIGURATIONS / "robustness.yaml", {"target": "t"})
    assert isinstance(robustness.data, SyntheticSource) and len(robustness.variations) == 5
    capellm = read_configuration(CONFIGURATIONS / "capellm.yaml", {"checkpoint": "c"})
    assert capellm.shots == 0 and "renamed" in capellm.variations
    seen = read_configuration(CONFIGURATIONS / "capellm_seen.yaml", {"checkpoint": "c"})
    assert seen.shots == 0
    known = {"capellm.yaml", "capellm_seen.yaml", "coco_person.yaml", "mp100.yaml", "robustness.yaml"}
    assert {path.name for path in CONFIGURATIONS.iterdir()} == known
