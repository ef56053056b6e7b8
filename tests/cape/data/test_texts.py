"""MP-100 as it really is, in miniature: unnamed keypoints, empty objects, points outside; and texts files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cape.data.dataset import DatasetError
from cape.data.mp100 import Mp100Dataset
from cape.data.sources import open_dataset, parse_data_source
from cape.evaluation.baselines import CentreEstimator
from cape.evaluation.configuration import EvaluationConfiguration
from cape.evaluation.evaluation import evaluate
from cape.evaluation.report import document, notes
from cli.main import main


@pytest.fixture(scope="module")
def mp100(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`face` has no names, `bird` has digits, `cat_body` underscores; image 6 is missing."""
    folder = tmp_path_factory.mktemp("mp100")
    for number in range(1, 6):
        (folder / "images").mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), (number * 40, 90, 90)).save(folder / "images" / f"{number}.png")
    categories = [
        {"id": 1, "name": "face", "supercategory": "human_face"},
        {"id": 2, "name": "bird", "supercategory": "animal_body", "keypoints": ["0", "1"], "skeleton": [[0, 1]]},
        {"id": 3, "name": "cat_body", "supercategory": "animal_body", "keypoints": ["left_eye", "tail"]},
    ]
    annotations = []

    def add(image: int, category: int, keypoints: list[float], **changes: object) -> None:
        count = sum(visibility > 0 for visibility in keypoints[2::3])
        found = {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": [10, 5, 30, 20],
                 "area": 600, "iscrowd": 0, "num_keypoints": count, "keypoints": keypoints}  # fmt: skip
        annotations.append(found | changes)

    for image in (1, 2):
        add(image, 1, [25, 15, 2, 30, 15, 1])
    add(3, 1, [25, 15, 2, 30, 15, 2], area=0)
    add(4, 1, [25, 15, 2, 30, 15, 2], num_keypoints=0)
    add(1, 2, [24.5, 14.5, 2, 0, 0, 0])
    add(2, 2, [0, 0, 0, 24.5, 14.5, 2])  # no keypoint in common with the other
    add(6, 2, [24, 14, 2, 24, 14, 2])
    add(1, 3, [75, 15, 2, 25, 15, 2])  # outside its image
    add(2, 3, [24.5, 14.5, 2, 24.5, 14.5, 2])
    images = [{"id": number, "file_name": f"{number}.png", "width": 60, "height": 40} for number in range(1, 7)]
    text = json.dumps({"categories": categories, "images": images, "annotations": annotations})
    (folder / "mp100_split4_val.json").write_text(text)
    return folder


def source(mp100: Path, **more: object) -> dict[str, object]:
    return {"kind": "mp100", "annotations": mp100, "images": mp100 / "images", "fold": 4, "split": "val"} | more


def test_objects_and_names_are_those_of_the_published_loader(mp100: Path) -> None:
    dataset = Mp100Dataset(mp100, mp100 / "images", fold=4, split="val")
    assert [list(dataset.objects(index)) for index in range(3)] == [[1, 2], [5, 6], [8, 9]]
    names = [[keypoint.name for keypoint in category.keypoints] for category in dataset.categories]
    assert names == [["keypoint 1", "keypoint 2"], ["0", "1"], ["left eye", "tail"]]
    outside = dataset.load(8)
    assert outside.keypoints.tolist() == [[60, 15], [25, 15]]
    assert outside.visible.all()
    assert dataset.load(1).visible.all()


@pytest.mark.parametrize(("scoring", "bird"), [("common", None), ("published", 0.0)])
def test_pairs_without_a_common_keypoint_count_as_0_where_published_scores_are_wanted(
    mp100: Path, scoring: str, bird: float | None
) -> None:
    configuration = EvaluationConfiguration.model_validate(
        {"baseline": "centre", "data": source(mp100), "episodes": 2, "queries": 1, "scoring": scoring}
    )
    evaluation = evaluate(open_dataset(configuration.data), CentreEstimator(), configuration)
    scores = {name: one.pck_at(0.05) for name, one in evaluation.categories.items()}
    assert scores.get("bird") == bird
    # Two pairs a category; the centre of a box cleaned as published is (24.5, 14.5).
    pairs = 6 if scoring == "published" else 4
    assert evaluation.overall.pairs == pairs
    found = document(evaluation)
    assert found["unscored_pairs"] == 2
    assert any("1 images are missing" in note and "6.png" in note for note in found["notes"])
    assert any("1 images are missing" in note for note in notes(evaluation))
    weighted = sum(one.pck_at(0.2) * one.pairs for one in evaluation.categories.values()) / pairs
    np.testing.assert_allclose(evaluation.overall.pck_at(0.2), weighted)


def test_a_texts_file_gives_names_descriptions_and_paraphrases(mp100: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text(
        "bird:\n  names: [beak, tail]\n  descriptions: [tip of the beak, end of the tail]\n"
        "  paraphrases: [[bill], []]\nplane:\n  names: []\n"
    )
    dataset = open_dataset(parse_data_source(source(mp100, texts=path)))
    bird = dataset.categories[1]
    assert bird.texts == ("tip of the beak", "end of the tail")
    assert [keypoint.name for keypoint in bird.keypoints] == ["beak", "tail"]
    assert bird.paraphrases == (("bill",), ())
    assert "texts.yaml: 1 categories are not in this data, 'plane' for one" in getattr(dataset, "notes", ())
    for text, message in (
        ("bird:\n  names: [beak]\n", r"bird\.names: 1 entries for 2 keypoints"),
        ("bird:\n  names: [beak, beak]\n", r"bird\.names: two keypoints have the same name"),
        ("bird:\n  name: [beak]\n", r"texts\.yaml: bird\.name: "),
    ):
        path.write_text(text)
        with pytest.raises(DatasetError, match=message):
            open_dataset(parse_data_source(source(mp100, texts=path)))


@pytest.mark.parametrize("name", ["texts.yaml", "texts.json"])
def test_the_template_says_what_is_missing_and_is_a_texts_file(mp100: Path, tmp_path: Path, name: str) -> None:
    command = ["data", "texts", "--mp100", str(mp100), "--images", str(mp100 / "images"), "--fold", "4"]
    command += ["--split", "val", "--output", str(tmp_path / name)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "missing: face: 2 names and 2 descriptions of 2" in result.output
    assert "missing: cat_body: 2 descriptions of 2" in result.output
    dataset = open_dataset(parse_data_source(source(mp100, texts=tmp_path / name)))
    assert dataset.categories == open_dataset(parse_data_source(source(mp100))).categories
