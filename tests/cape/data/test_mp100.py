from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cape.data.dataset import DatasetError
from cape.data.mp100 import Mp100Dataset, cleaned_box
from cape.support import Box


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small set in the published format: two categories, images in a folder for each."""
    names = {1: "car/10.jpg", 2: "car/11.jpg", 3: "cat_body/000 1.jpg", 4: "cat_body/2.jpg", 5: "bus/gone.jpg"}
    on_disk = {1: "car/10.jpg", 2: "car/11.JPEG", 3: "cat_body/000_1.jpg", 4: "cat_body/2.jpg"}
    for number, name in on_disk.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 60, 3), number * 20, dtype=np.uint8)).save(path, "JPEG")

    def annotation(number: int, image: int, category: int, **changes: Any) -> dict[str, Any]:
        found = {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": [-2.0, 5.0, 30.0, 20.0],
            "area": 600.0,
            "iscrowd": 0,
            "num_keypoints": 2,
            "keypoints": [4, 6, 2, 20, 20, 1, 0, 0, 0][: 9 if category == 7 else 6],
        }
        return found | changes

    document = {
        "categories": [
            {
                "id": 7,
                "name": "car",
                "supercategory": "vehicle",
                "keypoints": ["left wheel", "right wheel", "roof"],
                "skeleton": [[0, 1], [1, 2]],
            },
            {
                "id": 9,
                "name": "cat_body",
                "supercategory": "animal_body",
                "keypoints": ["nose", "tail"],
                "skeleton": [],
            },
        ],
        "images": [{"id": number, "file_name": name, "width": 60, "height": 40} for number, name in names.items()],
        "annotations": [
            annotation(104, 4, 9),
            annotation(101, 2, 7),
            annotation(102, 1, 7),
            annotation(103, 3, 9),
            annotation(105, 5, 7),
            annotation(106, 1, 7, iscrowd=1),
            annotation(107, 1, 7, keypoints=[0] * 9, num_keypoints=0),
        ],
    }
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    (annotations / "mp100_split3_train.json").write_text(json.dumps(document), encoding="utf-8")
    return tmp_path


def opened(folder: Path) -> Mp100Dataset:
    return Mp100Dataset(folder / "annotations", folder / "images", fold=3, split="train")


def test_objects_come_image_by_image_without_crowds_and_unlabelled_ones(folder: Path) -> None:
    dataset = opened(folder)
    assert dataset.name == "MP-100 split 3 (train)"
    assert [category.name for category in dataset.categories] == ["car", "cat_body"]
    assert dataset.categories[0].super_category == "vehicle"
    assert dataset.categories[0].skeleton == ((0, 1), (1, 2))
    assert dataset.objects(0) == [102, 101]
    assert dataset.objects(1) == [103, 104]


def test_missing_and_renamed_images_are_reported_and_not_fatal(folder: Path) -> None:
    report = opened(folder).report
    assert report.missing == ("bus/gone.jpg",)
    assert report.renamed == {"car/11.jpg": "car/11.JPEG", "cat_body/000 1.jpg": "cat_body/000_1.jpg"}
    missing, renamed = report.notes
    assert missing == "1 images are missing, their objects are left out: bus/gone.jpg"
    assert renamed.startswith("2 images lie under another name, such as car/11.JPEG for car/11.jpg")


def test_an_object_is_its_picture_its_cleaned_box_and_its_labelled_keypoints(folder: Path) -> None:
    annotated = opened(folder).load(101)
    assert annotated.image.shape == (40, 60, 3) and abs(int(annotated.image[0, 0, 0]) - 40) <= 2
    assert annotated.box == Box(0, 5, 29, 19)
    assert annotated.keypoints[:2].tolist() == [[4, 6], [20, 20]]
    assert annotated.visible.tolist() == [True, True, False]


def test_boxes_are_cleaned_as_published() -> None:
    assert cleaned_box(Box(10, 10, 20, 20), 60, 40) == Box(10, 10, 19, 19)
    assert cleaned_box(Box(50, 30, 20, 20), 60, 40) == Box(50, 30, 9, 9)
    assert cleaned_box(Box(70, 10, 20, 20), 60, 40) is None
    assert cleaned_box(None, 60, 40) is None


@pytest.mark.parametrize(
    ("fold", "split", "message"),
    [(6, "train", "fold: 1 to 5, not 6"), (3, "val", "mp100_split3_val.json")],
)
def test_what_is_not_there_is_named(folder: Path, fold: int, split: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Mp100Dataset(folder / "annotations", folder / "images", fold=fold, split=split)


def test_a_folder_without_any_of_the_images_is_an_error(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match="none of its objects has an image"):
        Mp100Dataset(folder / "annotations", empty, fold=3, split="train")


def test_an_object_of_a_damaged_image_is_an_error_of_that_object_only(folder: Path) -> None:
    (folder / "images" / "car" / "10.jpg").write_bytes(b"not a picture")
    dataset = opened(folder)
    with pytest.raises(DatasetError, match=r"10\.jpg: not a readable image"):
        dataset.load(102)
    assert dataset.load(101).visible.any()
    with pytest.raises(DatasetError, match="there is no object 1"):
        dataset.load(1)
