from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cape.annotations import AnnotationError
from cape.coco import read_coco
from cape.support import Box


def annotation(number: int, image: int, visibilities: str, category: int = 1) -> dict[str, Any]:
    points = [[10.0 * number + index, 5.0 + index, int(v)] for index, v in enumerate(visibilities)]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [number, 2, 30, 40],
        "keypoints": [value for point in points for value in point],
    }


def coco(folder: Path, **changes: Any) -> Path:
    """A file of two categories in COCO's own, 1-based way, and its images."""
    document = {
        "categories": [
            {"id": 1, "name": "cat", "keypoints": ["nose", "ear", "tail"], "skeleton": [[1, 2], [2, 3]]},
            {"id": 2, "name": "chair", "keypoints": ["seat", "back"], "skeleton": [[1, 2]]},
            {"id": 3, "name": "cloud"},
        ],
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [
            annotation(1, 7, "200"),
            annotation(2, 8, "212"),
            annotation(3, 7, "220"),
            annotation(4, 8, "000"),
            annotation(5, 8, "22", category=2),
        ],
    }
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        (folder / "images" / name).write_bytes(b"")
    path = folder / "coco.json"
    path.write_text(json.dumps(document | changes))
    return path


def test_a_category_becomes_a_support_with_its_best_labelled_example(tmp_path):
    support = read_coco(coco(tmp_path)).support("cat")
    assert support.names == ("nose", "ear", "tail")
    assert support.skeleton == ((0, 1), (1, 2))
    (example,) = support.examples
    assert example.image == tmp_path / "images" / "b.jpg"
    assert example.box == Box(2, 2, 30, 40)
    np.testing.assert_array_equal(example.keypoints, [[20, 5], [21, 6], [22, 7]])
    assert example.visible.all()


def test_visibility_zero_is_hidden(tmp_path):
    (example,) = read_coco(coco(tmp_path)).support("cat", annotation_ids=[1]).examples
    np.testing.assert_array_equal(example.visible, [True, False, False])


def test_shots_are_taken_from_the_best_labelled_down(tmp_path):
    support = read_coco(coco(tmp_path)).support("cat", shots=3)
    assert [int(example.visible.sum()) for example in support.examples] == [3, 2, 1]


def test_images_give_their_best_labelled_annotation_in_the_wanted_order(tmp_path):
    support = read_coco(coco(tmp_path)).support("cat", image_ids=[7, 8])
    assert [example.box.x for example in support.examples] == [3, 2]


def test_boxes_are_those_of_one_category_by_image(tmp_path):
    boxes = read_coco(coco(tmp_path)).boxes("cat")
    images = tmp_path / "images"
    assert {path: [box.x for box in found] for path, found in boxes.items()} == {
        images / "a.jpg": [1, 3],
        images / "b.jpg": [2, 4],
    }


def categories(*edges: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"id": 1, "name": "cat", "keypoints": ["nose", "ear", "tail", "paw"], "skeleton": edges}]


def four(**changes: Any) -> dict[str, Any]:
    return {"annotations": [annotation(1, 7, "2222")], **changes}


def test_a_skeleton_with_index_zero_counts_from_zero(tmp_path):
    file = read_coco(coco(tmp_path, **four(categories=categories((0, 1), (1, 3)))))
    assert file.support().skeleton == ((0, 1), (1, 3))


def test_a_skeleton_with_the_last_number_counts_from_one(tmp_path):
    file = read_coco(coco(tmp_path, **four(categories=categories((1, 2), (2, 4)))))
    assert file.support().skeleton == ((0, 1), (1, 3))


def test_a_skeleton_that_could_be_either_needs_to_be_told(tmp_path):
    file = read_coco(coco(tmp_path, **four(categories=categories((1, 2), (2, 3)))))
    with pytest.raises(AnnotationError, match="count from 0 or from 1"):
        file.support()
    assert file.support(skeleton_base=0).skeleton == ((1, 2), (2, 3))
    assert file.support(skeleton_base=1).skeleton == ((0, 1), (1, 2))


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"category": None}, "name one category; the file has 'cat', 'chair'"),
        ({}, {"category": "dog"}, "there is no category 'dog'"),
        ({}, {"category": "cat", "shots": 9}, "3 of 9 annotations"),
        ({}, {"category": "cat", "annotation_ids": [1, 99]}, "1 of 2 annotations"),
        ({"images": []}, {"category": "cat"}, "there is no image 8"),
        ({"images": [{"id": 8, "file_name": "c.jpg"}]}, {"category": "cat"}, "image c.jpg is not in"),
        ({"annotations": [annotation(1, 7, "22")]}, {"category": "cat"}, "annotation 1: 6 numbers"),
        ({"categories": categories((0, 4))}, {}, "both index 0 and an index equal"),
        ({"categories": categories((0, 9)), **four()}, {}, "joins a keypoint not there"),
    ],
)
def test_what_is_missing_or_wrong_is_said(tmp_path, changes, arguments, message):
    path = coco(tmp_path, **changes)
    with pytest.raises(AnnotationError) as caught:
        read_coco(path).support(**arguments)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_file_that_is_not_coco_is_refused_with_the_missing_field(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"categories": [], "images": []}')
    with pytest.raises(AnnotationError, match="annotations: Field required"):
        read_coco(path)
