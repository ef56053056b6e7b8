from __future__ import annotations

from pathlib import Path

import pytest

from cape.data.dataset import DatasetError
from cape.data.sources import CocoSource, Mp100Source, SyntheticSource, open_dataset, parse_data_source
from tests.cape.test_coco import annotation, coco


def test_each_kind_is_recognised():
    assert parse_data_source({"kind": "coco", "annotations": "a.json"}) == CocoSource(annotations=Path("a.json"))
    assert parse_data_source({"kind": "synthetic"}) == SyntheticSource(kind="synthetic")
    assert parse_data_source({"kind": "mp100", "annotations": "a", "images": "i", "fold": 3}) == Mp100Source(
        kind="mp100", annotations=Path("a"), images=Path("i"), fold=3
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"kind": "coco"}, "data.annotations: Field required"),
        ({"kind": "coco", "annotations": "a", "splt": "test"}, "data.splt: Extra inputs are not permitted"),
        ({"kind": "mp100", "annotations": "a", "images": "i", "fold": 6}, "data.fold: Input should be less than"),
        ({"kind": "synthetic", "split": "all"}, "data.split: Input should be 'train', 'val' or 'test'"),
        ({"kind": "video"}, "data: Input tag 'video'"),
        ({}, "data: Unable to extract tag"),
    ],
)
def test_the_field_that_is_wrong_is_named(document, message):
    with pytest.raises(DatasetError, match=r"^data") as caught:
        parse_data_source(document)
    assert message in str(caught.value)


def test_a_coco_file_is_opened_with_all_its_options(tmp_path):
    path = coco(
        tmp_path,
        images=[{"id": 7, "file_name": "a.jpg", "split": "test"}, {"id": 8, "file_name": "b.jpg"}],
        annotations=[annotation(1, 7, "200"), annotation(2, 8, "212"), annotation(3, 7, "22", category=2)],
    )
    dataset = open_dataset(
        parse_data_source(
            {
                "kind": "coco",
                "annotations": path,
                "images": tmp_path / "images",
                "split": "test",
                "categories": ["cat"],
                "one_object_per_image": True,
                "skeleton_base": 1,
            }
        )
    )
    assert [category.name for category in dataset.categories] == ["cat"]
    assert list(dataset.objects(0)) == [1]


def test_the_procedural_data_set_is_opened():
    dataset = open_dataset(parse_data_source({"kind": "synthetic", "split": "val", "objects_per_category": 3}))
    assert "val" in dataset.name
    assert {len(dataset.objects(index)) for index in range(len(dataset.categories))} == {3}


def test_a_file_that_is_not_there_is_named(tmp_path):
    source = parse_data_source({"kind": "coco", "annotations": tmp_path / "none.json"})
    with pytest.raises(DatasetError, match=r"none\.json"):
        open_dataset(source)
