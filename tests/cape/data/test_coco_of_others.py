"""COCO files as other tools write them: one reading for supports and data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cape.annotations import AnnotationError
from cape.coco import CocoFile, read_coco
from cape.data.coco_dataset import CocoDataset
from cape.data.dataset import DatasetError
from cape.support import Box

WIDTH, HEIGHT = 40, 20

FACE: dict[str, Any] = {"id": 1, "name": "face", "keypoints": ["left eye", "mouth"], "skeleton": [[0, 1]]}

OBJECT: dict[str, Any] = {
    "id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 2, 20, 10], "keypoints": [6, 4, 2, 20, 10, 1],
}  # fmt: skip


def written(folder: Path, **changes: Any) -> Path:
    """A file of two images and an object in each, changed."""
    document: dict[str, Any] = {
        "categories": [FACE],
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [OBJECT, OBJECT | {"id": 2, "image_id": 2}],
    }
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT), "grey").save(folder / name)
    path = folder / "face.json"
    path.write_text(json.dumps(document | changes), encoding="utf-8")
    return path


def both(path: Path) -> tuple[CocoFile, CocoDataset]:
    """Read as a support and as a data set: the same keypoints, visibility and box come out."""
    file, dataset = read_coco(path), CocoDataset(path)
    example = file.support("face", annotation_ids=[file.annotations[0].id]).examples[0]
    found = dataset.load(dataset.objects(0)[0])
    np.testing.assert_array_equal(example.visible, found.visible)
    np.testing.assert_array_equal(example.keypoints[example.visible], found.keypoints[found.visible])
    assert example.box == found.box
    return file, dataset


@pytest.mark.parametrize(
    "extra",
    [
        {"bbox": None, "keypoints": None},
        {"bbox": [], "keypoints": []},
        {"category_id": 7, "keypoints": None, "iscrowd": None, "area": None, "num_keypoints": None},
    ],
)
def test_null_and_empty_mean_absent(tmp_path: Path, extra: dict[str, Any]) -> None:
    category = {"id": 7, "name": "background", "supercategory": None, "keypoints": None, "skeleton": None}
    annotations = [OBJECT, OBJECT | {"id": 3} | extra]
    file, dataset = both(written(tmp_path, categories=[FACE, category], annotations=annotations))
    assert [entry.name for entry in file.usable_categories] == ["face"]
    assert list(dataset.objects(0)) == [1]


def test_a_keypoint_without_numbers_is_hidden(tmp_path: Path) -> None:
    _, dataset = both(written(tmp_path, annotations=[OBJECT | {"keypoints": [None, None, None, 20, 10, 1]}]))
    assert dataset.load(1).visible.tolist() == [False, True]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    both(path)


@pytest.mark.parametrize("name", [r"images\train\a.png", r"C:\data\a.png", "/home/somebody/data/a.png"])
def test_paths_of_another_machine_lead_to_the_file(tmp_path: Path, name: str) -> None:
    images = [{"id": 1, "file_name": name}, {"id": 2, "file_name": "b.png"}]
    both(written(tmp_path, images=images))


def test_ids_may_be_texts(tmp_path: Path) -> None:
    images = [{"id": "1", "file_name": "a.png"}, {"id": "img-b", "file_name": "b.png"}]
    annotations = [OBJECT | {"id": "a-1", "category_id": "1"}, OBJECT | {"id": "b-1", "image_id": "img-b"}]
    _, dataset = both(written(tmp_path, images=images, annotations=annotations))
    assert len(dataset.objects(0)) == 2


def test_annotations_without_ids_are_numbered(tmp_path: Path) -> None:
    without = {name: value for name, value in OBJECT.items() if name != "id"}
    _, dataset = both(written(tmp_path, annotations=[without, without | {"image_id": 2}]))
    assert list(dataset.objects(0)) == [1, 2]


def test_points_outside_go_to_the_edge_or_are_hidden_and_either_is_said(tmp_path: Path) -> None:
    annotations = [OBJECT | {"keypoints": [WIDTH + 0.7, 4, 2, 20, 10, 2]}, OBJECT | {"id": 2, "image_id": 2}]
    file, dataset = both(written(tmp_path, annotations=annotations))
    assert dataset.load(1).keypoints[0].tolist() == [WIDTH, 4]
    assert file.notes == ["annotation 1: 1 keypoints moved to the edge of a.png"]
    assert list(dataset.notes) == ["1 keypoints lie less than a pixel outside and were moved to the edge"]
    annotations[0] = OBJECT | {"keypoints": [WIDTH + 40, 4, 2, 20, 10, 2]}
    file, dataset = both(written(tmp_path, annotations=annotations))
    assert dataset.load(1).visible.tolist() == [False, True]
    assert file.notes == ["annotation 1: 1 keypoints outside a.png are hidden"]


def test_repeated_names_are_numbered_and_self_loops_dropped(tmp_path: Path) -> None:
    category = FACE | {"keypoints": ["eye", "eye"], "skeleton": [[0, 1], [1, 1]]}
    file, dataset = both(written(tmp_path, categories=[category]))
    support = file.support()
    assert support.names == tuple(keypoint.name for keypoint in dataset.categories[0].keypoints) == ("eye", "eye (2)")
    assert support.skeleton == dataset.categories[0].skeleton == ((0, 1),)
    assert "category 'face': 1 edges from a keypoint to itself are dropped" in dataset.notes


def test_names_are_invented_where_there_are_none(tmp_path: Path) -> None:
    file, _ = both(written(tmp_path, categories=[{"id": 1, "name": "face"}]))
    assert file.support().names == ("keypoint 1", "keypoint 2")
    file, _ = both(written(tmp_path, categories=[FACE | {"keypoints": [0, ""]}]))
    assert file.support().names == ("0", "keypoint 2")


def sized(width: int, height: int) -> list[dict[str, Any]]:
    return [{"id": i, "file_name": name, "width": width, "height": height} for i, name in ((1, "a.png"), (2, "b.png"))]


@pytest.mark.parametrize("factor", [2, 0.5])
def test_points_are_scaled_where_the_image_is_a_whole_multiple(tmp_path: Path, factor: float) -> None:
    _, dataset = both(written(tmp_path, images=sized(int(WIDTH * factor), int(HEIGHT * factor))))
    points = np.array([6, 4, 20, 10], np.float32).reshape(2, 2) / factor
    inside = (points <= (WIDTH, HEIGHT)).all(axis=1)
    np.testing.assert_allclose(dataset.load(1).keypoints[inside], points[inside])


def test_points_of_the_stored_image_are_turned_upright(tmp_path: Path) -> None:
    path = written(tmp_path, images=sized(WIDTH, HEIGHT))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT), "grey").save(tmp_path / name, exif=exif)
    _, dataset = both(path)
    found = dataset.load(1)
    assert found.image.shape == (WIDTH, HEIGHT, 3)
    np.testing.assert_allclose(found.keypoints, [[HEIGHT - 4, 6], [HEIGHT - 10, 20]])
    assert found.box == Box(HEIGHT - 12, 4, 10, 20)


def test_another_image_than_the_annotated_one_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, images=sized(WIDTH + 7, HEIGHT))
    message = "annotation 1: image a.png is 40 × 20 pixels, but the file says 47 × 20"
    with pytest.raises(AnnotationError, match=message):
        read_coco(path).support()
    with pytest.raises(DatasetError, match=message):
        CocoDataset(path).load(1)


def test_missing_images_and_boxes_outside_are_known_before_anything_is_read(tmp_path: Path) -> None:
    annotations = [OBJECT, OBJECT | {"id": 2, "image_id": 2}, OBJECT | {"id": 3, "bbox": [90, 0, 5, 5]}]
    path = written(tmp_path, images=sized(WIDTH, HEIGHT), annotations=annotations)
    (tmp_path / "b.png").unlink()
    dataset = CocoDataset(path)
    assert list(dataset.objects(0)) == [1]
    assert list(dataset.notes) == [
        "1 images are missing, their objects are left out: b.png",
        "1 objects whose box lies outside are left out: annotation 3 for one",
    ]
