"""The procedural data set: what it promises to training and evaluation."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from cape.data.dataset import DatasetError
from cape.data.synthetic import SyntheticDataset

SPLITS = ("train", "val", "test")


def digest(dataset: SyntheticDataset, object_id: int) -> str:
    found = dataset.load(object_id)
    content = found.image.tobytes() + found.keypoints.tobytes() + found.visible.tobytes() + repr(found.box).encode()
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def datasets() -> dict[str, SyntheticDataset]:
    return {split: SyntheticDataset(split, objects_per_category=3, seed=5) for split in SPLITS}


@pytest.fixture(scope="module")
def drawn(datasets):
    """One object of every category."""
    return [
        (category, dataset.load(dataset.objects(index)[0]))
        for dataset in datasets.values()
        for index, category in enumerate(dataset.categories)
    ]


def test_there_are_many_categories_of_many_kinds(datasets):
    categories = [category for dataset in datasets.values() for category in dataset.categories]
    assert len(categories) >= 50
    assert len({category.super_category for category in categories}) >= 8


def test_no_category_is_in_two_splits_and_the_shares_are_those_of_mp100(datasets):
    names = [category.name for dataset in datasets.values() for category in dataset.categories]
    assert len(names) == len(set(names))
    shares = [len(datasets[split].categories) / len(names) for split in SPLITS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_every_super_category_has_unseen_categories(datasets):
    groups = [{category.super_category for category in datasets[split].categories} for split in SPLITS]
    assert groups[0] == groups[1] == groups[2]


def test_categories_name_describe_and_join_their_keypoints(datasets):
    for dataset in datasets.values():
        for category in dataset.categories:
            names = [keypoint.name for keypoint in category.keypoints]
            assert 5 <= len(names) <= 40, category.name
            assert len(set(names)) == len(names), category.name
            assert len(category.paraphrases) == len(names)
            for keypoint, paraphrases in zip(category.keypoints, category.paraphrases, strict=True):
                texts = {keypoint.description, *paraphrases}
                assert 2 <= len(paraphrases) <= 4
                assert len(texts) == 1 + len(paraphrases)
                assert all(text and "{" not in text for text in texts)
            assert all(0 <= start < len(names) and 0 <= end < len(names) for start, end in category.skeleton)
            assert all(start != end for start, end in category.skeleton)
            assert {index for bone in category.skeleton for index in bone} == set(range(len(names))), category.name


def test_texts_of_a_category_tell_its_keypoints_apart(datasets):
    for dataset in datasets.values():
        for category in dataset.categories:
            assert len(set(category.texts)) == len(category.texts), category.name


def test_words_are_shared_between_seen_and_unseen_categories(datasets):
    seen = {word for category in datasets["train"].categories for text in category.texts for word in text.split()}
    unseen = Counter(
        word for category in datasets["test"].categories for text in category.texts for word in text.split()
    )
    assert sum(count for word, count in unseen.items() if word in seen) / unseen.total() > 0.95


def test_ids_are_unique_and_ordered(datasets):
    dataset = datasets["test"]
    ids = [object_id for index in range(len(dataset.categories)) for object_id in dataset.objects(index)]
    assert ids == list(range(3 * len(dataset.categories)))
    with pytest.raises(IndexError):
        dataset.objects(len(dataset.categories))
    for object_id in (-1, len(ids)):
        with pytest.raises(DatasetError, match="no object"):
            dataset.load(object_id)


def test_an_object_is_the_same_every_time_in_any_order(datasets):
    first, second = datasets["val"], SyntheticDataset("val", objects_per_category=3, seed=5)
    ids = range(0, 12, 3)
    assert [digest(first, i) for i in ids] == [digest(second, i) for i in reversed(ids)][::-1]


def test_an_object_does_not_depend_on_how_many_there_are(datasets):
    more = SyntheticDataset("val", objects_per_category=50, seed=5)
    assert digest(more, more.objects(4)[2]) == digest(datasets["val"], datasets["val"].objects(4)[2])


def test_another_process_draws_the_same(datasets):
    code = (
        "from tests.cape.data.test_synthetic import digest; from cape.data.synthetic import SyntheticDataset; "
        "dataset = SyntheticDataset('test', objects_per_category=3, seed=5); "
        "print(digest(dataset, 7), digest(dataset, 40))"
    )
    environment = {"PYTHONHASHSEED": "12345", "PYTHONPATH": "."}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest(datasets["test"], 7), digest(datasets["test"], 40)]


def test_seeds_and_numbers_give_different_pictures(datasets):
    other = SyntheticDataset("val", objects_per_category=3, seed=6)
    digests = {digest(dataset, object_id) for dataset in (datasets["val"], other) for object_id in range(6)}
    assert len(digests) == 12


def test_what_it_is_asked_for_is_checked():
    with pytest.raises(ValueError, match="train, val or test"):
        SyntheticDataset("dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="objects_per_category"):
        SyntheticDataset(objects_per_category=0)
    with pytest.raises(ValueError, match="seed"):
        SyntheticDataset(seed=-1)


def test_objects_are_what_the_contract_says(drawn):
    for category, found in drawn:
        height, width = found.image.shape[:2]
        count = len(category.keypoints)
        assert found.image.dtype == np.uint8
        assert found.image.shape[2] == 3
        assert found.image.std() > 5, category.name
        assert found.keypoints.shape == (count, 2)
        assert found.keypoints.dtype == np.float32
        assert np.isfinite(found.keypoints).all()
        assert found.visible.shape == (count,)
        assert found.visible.dtype == np.bool_
        assert found.box.x >= 0
        assert found.box.y >= 0
        assert found.box.x + found.box.width <= width
        assert found.box.y + found.box.height <= height
        assert min(found.box.width, found.box.height) > 4, category.name


def test_visible_keypoints_are_in_the_picture_and_in_the_box(drawn):
    for category, found in drawn:
        x, y = found.keypoints[found.visible].T
        height, width = found.image.shape[:2]
        assert ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all(), category.name
        box = found.box
        # Keypoints of thin parts may lie a pixel beside them.
        assert (x >= box.x - 1.5).all() and (x <= box.x + box.width + 1.5).all(), category.name
        assert (y >= box.y - 1.5).all() and (y <= box.y + box.height + 1.5).all(), category.name


def test_most_keypoints_are_seen_and_many_are_hidden(drawn):
    visible = np.concatenate([found.visible for _, found in drawn])
    assert 0.55 < visible.mean() < 0.95
    assert all(found.visible.sum() >= 3 for _, found in drawn)
