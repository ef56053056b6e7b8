from __future__ import annotations

import random

import pytest

from cape.data.dataset import Category
from cape.evaluation.supports import support_definition
from cape.evaluation.texts import misspelt, reworded
from cape.evaluation.variations import VARIATIONS, variation
from cape.support import KeypointDefinition
from tests.cape.evaluation.conftest import Squares


def changed(name: str, share: float = 0.5, category: int = 0, seed: int = 1):
    squares = Squares()
    kind = squares.categories[category]
    support = support_definition(kind, [squares.load(squares.objects(category)[0])])
    return support, variation(name, share).change(support, kind, random.Random(seed))


def texts(support) -> list[str]:
    return [keypoint.description or keypoint.name for keypoint in support.keypoints]


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_variation_is_the_same_from_the_same_seed_and_keeps_names_unless_it_is_about_them(name):
    support, first = changed(name)
    _, second = changed(name)
    assert texts(first) == texts(second)
    assert (first.names == support.names) == (name != "renamed")
    assert first.skeleton == support.skeleton


def test_a_typo_changes_every_text_a_little():
    support, typos = changed("misspelt")
    for before, after in zip(texts(support), texts(typos), strict=True):
        assert before != after
        assert abs(len(before) - len(after)) <= 1


def test_every_kind_of_typo_occurs_and_none_leaves_the_word_as_it_was():
    words = {misspelt("wheel", random.Random(seed)) for seed in range(200)}
    assert "wheel" not in words
    assert {"hweel", "whel", "wwheel"} - words == {"wwheel"}  # first letters are not doubled
    assert "whheel" in words
    assert any(len(word) == 5 and word not in ("hweel", "wehel", "whele") for word in words)


def test_a_text_without_a_word_stays():
    assert misspelt("k7", random.Random(0)) == "k7"


def test_written_paraphrases_are_used_where_there_are_any():
    _, support = changed("paraphrased", category=1)
    assert texts(support) == [f"the corner {index}" for index in range(4)]


def test_other_texts_are_reworded_by_rule():
    support, other = changed("paraphrased")
    for before, after in zip(texts(support), texts(other), strict=True):
        assert before != after
    forms = {reworded("left wheel", "car", random.Random(seed)) for seed in range(50)}
    assert "the wheel on the left side" in forms
    assert "the left wheel of the car" in forms


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.6, 3), (1.0, 4), (0.01, 1)])
def test_a_share_of_the_texts_is_missing(share, expected):
    _, support = changed("missing_texts", share)
    assert sum(text.startswith("keypoint ") for text in texts(support)) == expected


def test_descriptions_are_taken_away_and_names_replaced():
    support, renamed = changed("renamed", category=1)
    assert renamed.names == tuple(f"the corner {index}" for index in range(4))
    assert [k.description for k in renamed.keypoints] == [k.description for k in support.keypoints]
    support, bare = changed("names_only")
    assert bare.names == support.names
    assert not any(keypoint.description for keypoint in bare.keypoints)


def test_whole_modalities_are_taken_away():
    _, images = changed("no_texts")
    assert images.modalities == ("image",) and len(images.examples) == 1
    _, words = changed("no_image")
    assert words.modalities == ("text",) and words.examples == ()


def test_supports_have_no_edge_to_itself_and_no_example_without_a_keypoint():
    squares = Squares(hidden={1: range(4)})
    category = Category("loop", "loops", (KeypointDefinition("a"),) * 4, ((0, 0), (0, 1)))
    support = support_definition(category, [squares.load(0), squares.load(1)])
    assert support.skeleton == ((0, 1),)
    assert len(support.examples) == 1
