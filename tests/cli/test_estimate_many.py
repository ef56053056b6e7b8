"""`capeserve estimate` over folders, globs and COCO files, with records that an interrupted run continues."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

FILES = ("chelsea.jpg", "raccoon.jpg")
SUFFIXES = {"jsonl": ".jsonl", "csv": ".csv", "coco": ".json"}
KEYPOINTS = 10


@pytest.fixture
def folder(examples, tmp_path):
    """A folder with two images and a file that is none."""
    made = tmp_path / "images"
    made.mkdir()
    for name in FILES:
        shutil.copy(examples / name, made)
    (made / "notes.txt").write_text("not an image")
    return made


def images_of(path):
    """Images with a record, one entry per record."""
    if path.suffix == ".csv":
        with path.open(newline="") as stream:
            return [row["image"] for row in csv.DictReader(stream)]
    if path.suffix == ".json":
        return [entry["file_name"] for entry in json.loads(path.read_text())]
    return [json.loads(line)["image"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("format_", SUFFIXES)
def test_a_folder_is_answered_and_an_interrupted_run_continues(capeserve, examples, folder, tmp_path, format_):
    path = tmp_path / f"poses{SUFFIXES[format_]}"
    arguments = ("estimate", folder, "--support", examples / "cat.yaml", "--output-file", path)
    result = capeserve(*arguments, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.output == ""
    records = KEYPOINTS if format_ == "csv" else 1
    assert sorted(images_of(path)) == sorted(str(folder / name) for name in FILES for _ in range(records))

    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert capeserve(*arguments).exit_code == 0
    assert sorted(images_of(path)) == sorted(str(folder / name) for name in FILES for _ in range(records))
    assert path.read_bytes().startswith(whole[: len(whole) // 3])  # the first image is kept

    finished = path.read_bytes()
    assert capeserve(*arguments, "--target", "localhost:1").exit_code == 0
    assert path.read_bytes() == finished


def test_a_glob_writes_lines_to_standard_output(capeserve, examples):
    result = capeserve(
        "estimate", examples / "[cr]*.jpg", "--support", examples / "cat.yaml", "--box", "10,10,90,90",
        "--format", "jsonl",
    )  # fmt: skip
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(document["image_id"] for document in documents) == sorted(FILES)
    assert all(document["instances"][0]["box"] == [10, 10, 90, 90] for document in documents)


def test_detections_give_coco_results_per_box(capeserve, examples, folder, tmp_path):
    (folder / "chelsea.jpg").rename(folder / "000000000139.jpg")
    detections = tmp_path / "detections.json"
    boxes = [
        {"image_id": 139, "category_id": 17, "bbox": [10, 10, 90, 90], "score": 0.5},
        {"image_id": 139, "category_id": 17, "bbox": [50, 40, 90, 90], "score": 1.0},
        {"image_id": "raccoon", "category_id": 17, "bbox": [5, 5, 90, 90], "score": 0.2},
        {"image_id": "raccoon", "category_id": 17, "bbox": [5, 5, 90, 0], "score": 0.9},
    ]
    detections.write_text(json.dumps(boxes))
    path = tmp_path / "results.json"
    result = capeserve(
        "estimate", detections, "--images", folder, "--min-score", 0.4, "--support", examples / "cat.yaml",
        "--output-file", path, "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "1 entries without a box" in result.stderr
    entries = json.loads(path.read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(139, 17)] * 2
    assert [entry["bbox"] for entry in entries] == [boxes[0]["bbox"], boxes[1]["bbox"]]
    for entry, detector in zip(entries, (0.5, 1.0), strict=True):
        scores = entry["keypoints"][2::3]
        located = [score for x, score in zip(entry["keypoints"][0::3], scores, strict=True) if x]
        assert entry["score"] == pytest.approx(detector * sum(located) / len(located))
        assert len(scores) == KEYPOINTS


def test_boxes_of_a_coco_file_are_used_by_category(capeserve, examples, folder, tmp_path):
    path = folder / "annotations.json"
    document = {
        "images": [{"id": 1, "file_name": "chelsea.jpg"}, {"id": 2, "file_name": "raccoon.jpg"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "raccoon"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 90, 90]},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [5, 5, 90, 90]},
        ],
    }
    path.write_text(json.dumps(document))
    result = capeserve("estimate", path, "--category", "cat", "--support", examples / "cat.yaml", "--json")
    (answer,) = json.loads(result.stdout)
    assert answer["image"] == str(folder / "chelsea.jpg")
    refused = capeserve("estimate", path, "--category", "dog", "--support", examples / "cat.yaml")
    assert refused.exit_code == 1
    assert "no category 'dog'" in refused.stderr


def test_records_of_another_support_or_another_file_are_not_touched(capeserve, examples, folder, tmp_path):
    for suffix in SUFFIXES.values():
        path = tmp_path / f"poses{suffix}"
        first = ("estimate", folder / "raccoon.jpg", "--support", examples / "cat.yaml", "--output-file", path)
        assert capeserve(*first).exit_code == 0
        before = path.read_bytes()
        refused = capeserve("estimate", folder, "--support", examples / "astronaut.yaml", "--output-file", path)
        assert refused.exit_code == 1
        assert "another support" in refused.stderr
        assert path.read_bytes() == before
        path.write_text("a shopping list")
        assert "--overwrite" in capeserve(*first).stderr
        assert path.read_text() == "a shopping list"
        assert capeserve(*first, "--overwrite").exit_code == 0
        assert path.read_bytes().count(b"raccoon.jpg") >= 1


def test_an_image_that_fails_is_named_and_tried_again(capeserve, examples, folder, tmp_path):
    broken = folder / "broken.png"
    broken.write_text("not an image")
    path = tmp_path / "poses.jsonl"
    arguments = ("estimate", folder, "--support", examples / "cat.yaml", "--output-file", path)
    result = capeserve(*arguments)
    assert result.exit_code == 1
    assert "broken.png" in result.stderr
    shutil.copy(examples / "raccoon.jpg", broken)
    assert capeserve(*arguments).exit_code == 0
    assert sorted(images_of(path)) == sorted(str(folder / name) for name in (*FILES, "broken.png"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jpg", "does not exist"),
        ("*.nothing", "no image matches"),
        ("", "no images"),
        ("clip.mp4", "give its frames as images"),
    ],
)
def test_an_argument_that_names_no_image_is_refused(capeserve, examples, tmp_path, source, message):
    result = capeserve("estimate", tmp_path / source, "--support", examples / "cat.yaml")
    assert result.exit_code == 2
    assert message in result.stderr


def test_support_create_quiet_prints_the_name_alone(capeserve, examples):
    result = capeserve("support", "create", examples / "cat.yaml", "--quiet")
    assert result.output.startswith("supports/")
    assert result.output.split() == [result.output.rstrip("\n")]
