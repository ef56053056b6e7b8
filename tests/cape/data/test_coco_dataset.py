from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cape.coco import keypoint_definitions
from cape.data.coco_dataset import CocoDataset
from cape.data.dataset import DatasetError
from cape.support import Box, KeypointDefinition


def annotation(number: int, image: int, category: int = 1, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [2, 3, 10, 8],
        "keypoints": [4, 5, 2, 6, 7, 1, 0, 0, 0] if category == 1 else [4, 5, 2, 6, 7, 2],
    }
    return found | changes


@pytest.fixture
def coco(tmp_path: Path):
    """Writes a file of two categories, three images of 20 × 16 pixels, and changes to them."""

    def write(**changes: Any) -> Path:
        folder = tmp_path / "zoo"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for number in (1, 2, 3):
            pixels = np.full((16, 20, 3), 10 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        document = {
            "categories": [
                {
                    "id": 1,
                    "name": "cat",
                    "supercategory": "animal",
                    "keypoints": ["nose", "ear", "tail"],
                    "skeleton": [[0, 1]],
                },
                {"id": 2, "name": "chair", "keypoints": ["seat", "back"]},
                {"id": 3, "name": "cloud"},
            ],
            "images": [
                {"id": number, "file_name": f"{number}.png", "split": "train" if number == 3 else "test"}
                for number in (1, 2, 3)
            ],
            "annotations": [annotation(7, 2), annotation(5, 1), annotation(6, 3), annotation(8, 1, category=2)],
        }
        path = folder / "coco.json"
        path.write_text(json.dumps(document | changes))
        return path

    return write


def test_categories_and_objects_come_in_the_order_of_the_file(coco):
    dataset = CocoDataset(coco())
    assert [(category.name, category.super_category) for category in dataset.categories] == [
        ("cat", "animal"),
        ("chair", "chair"),
    ]
    assert list(dataset.objects(0)) == [7, 5, 6]
    assert dataset.categories[0].skeleton == ((0, 1),)
    assert dataset.categories[0].texts == ("nose", "ear", "tail")


def test_an_object_has_pixels_box_and_visibility(coco):
    found = CocoDataset(coco()).load(5)
    assert found.image.shape == (16, 20, 3) and (found.image == 10).all()
    assert found.box == Box(2, 3, 10, 8)
    np.testing.assert_array_equal(found.visible, [True, True, False])
    np.testing.assert_array_equal(found.keypoints[:2], [[4, 5], [6, 7]])


def test_a_split_takes_only_its_images_and_drops_categories_without_any(coco):
    dataset = CocoDataset(coco(), split="train")
    assert dataset.name == "zoo (train)"
    assert [category.name for category in dataset.categories] == ["cat"]
    assert list(dataset.objects(0)) == [6]


def test_a_folder_stands_for_its_annotations_and_gives_the_name(coco):
    path = coco()
    path.rename(path.with_name("annotations.json"))
    assert CocoDataset(path.parent).name == "zoo"
    path.with_name("annotations.json").rename(path.with_name("val2017.json"))
    assert CocoDataset(path.with_name("val2017.json"), split="test").name == "val2017 (test)"
    with pytest.raises(DatasetError, match=r"annotations\.json: No such file"):
        CocoDataset(path.parent)


def test_only_the_wanted_categories_are_there(coco):
    assert [category.name for category in CocoDataset(coco(), categories=["chair"]).categories] == ["chair"]


def test_the_single_object_rule_counts_unlabelled_objects_and_crowds(coco):
    unlabelled = annotation(9, 2, keypoints=[0] * 9)
    crowd = annotation(10, 3, iscrowd=1)
    path = coco(annotations=[annotation(5, 1), annotation(7, 2), unlabelled, annotation(6, 3), crowd])
    assert list(CocoDataset(path, one_object_per_image=True).objects(0)) == [5]
    assert list(CocoDataset(path).objects(0)) == [5, 7, 6]


def test_what_cannot_be_scored_is_no_object(coco):
    unusable = [
        annotation(1, 1, keypoints=[0] * 9),
        annotation(2, 1, bbox=None),
        annotation(3, 1, bbox=[1, 1, 0, 5]),
        annotation(4, 1, iscrowd=1),
    ]
    assert list(CocoDataset(coco(annotations=[*unusable, annotation(5, 1)])).objects(0)) == [5]


def test_the_box_is_clipped_to_the_picture(coco):
    found = CocoDataset(coco(annotations=[annotation(5, 1, bbox=[-4, 10, 30, 30])])).load(5)
    assert found.box == Box(0, 10, 20, 6)


def test_a_keypoint_outside_the_picture_is_hidden_unless_it_was_rounded(coco):
    points = [20.5, 5, 2, 23, 7, 2, 3, -0.4, 2]
    found = CocoDataset(coco(annotations=[annotation(5, 1, keypoints=points)])).load(5)
    np.testing.assert_array_equal(found.visible, [True, False, True])
    np.testing.assert_array_equal(found.keypoints[[0, 2]], [[20, 5], [3, 0]])


def test_repeated_keypoint_names_become_unique_and_keep_their_text():
    definitions = keypoint_definitions(["paw", "nose", "paw"])
    assert definitions == (KeypointDefinition("paw"), KeypointDefinition("nose"), KeypointDefinition("paw (2)", "paw"))


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"categories": ["dog"]}, "there is no category 'dog'; the file has 'cat', 'chair'"),
        ({}, {"split": "val"}, "no image is in split 'val'; splits: test, train"),
        ({}, {"split": "train", "categories": ["chair"]}, "no labelled objects of 'chair' in split 'train'"),
        ({"annotations": []}, {}, "no labelled objects of 'cat', 'chair'"),
        ({"annotations": [annotation(5, 1, keypoints=[1, 2, 2])]}, {}, "annotation 5: 3 numbers"),
        ({"annotations": [annotation(5, 1), annotation(5, 2)]}, {}, "two annotations have the id 5"),
        ({"images": "none"}, {}, "images: Input should be a valid list"),
    ],
)
def test_what_is_missing_or_wrong_in_a_file_is_said(coco, changes, arguments, message):
    path = coco(**changes)
    with pytest.raises(DatasetError) as caught:
        CocoDataset(path, **arguments)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_image_an_unreadable_one_and_a_box_outside_are_named(coco):
    path = coco(annotations=[annotation(5, 1), annotation(6, 2), annotation(7, 3, bbox=[30, 0, 5, 5])])
    images = path.parent / "images"
    (images / "1.png").unlink()
    (images / "2.png").write_text("no picture")
    dataset = CocoDataset(path)
    for number, message in (
        (5, "image 1.png is not in"),
        (6, "2.png: not a readable image"),
        (7, "lies outside 3.png"),
    ):
        with pytest.raises(DatasetError, match=message):
            dataset.load(number)
    with pytest.raises(DatasetError, match="there is no object 99"):
        dataset.load(99)


def test_real_photographs_are_read():
    folder = os.environ.get("CAPESERVE_REAL_POSES")
    if not folder:
        pytest.skip("real images are missing: set CAPESERVE_REAL_POSES to a folder of annotations.json and images/")
    dataset = CocoDataset(folder, split="test")
    assert len(dataset.categories) > 1
    for index in range(len(dataset.categories)):
        found = dataset.load(dataset.objects(index)[0])
        height, width = found.image.shape[:2]
        assert found.visible.any()
        assert (found.keypoints[found.visible] <= [width, height]).all()
