from __future__ import annotations

import random

import pytest

from cape.data.dataset import AnnotatedObject, Category, DatasetError
from cape.data.pairs import draw_pairs
from cape.support import KeypointDefinition


class Listed:
    """A data set of so many objects a category, whose ids begin at 100, 200 …; nothing can be loaded."""

    name = "listed"

    def __init__(self, *counts: int) -> None:
        self._counts = counts
        self.categories = [
            Category(f"kind {index}", "kinds", (KeypointDefinition("a"),)) for index in range(len(counts))
        ]

    def objects(self, category: int) -> list[int]:
        return [100 * (category + 1) + number for number in range(self._counts[category])]

    def load(self, object_id: int) -> AnnotatedObject:
        raise AssertionError("drawing pairs reads no picture")


def published_pairs(dataset: Listed, shots: int, episodes: int, queries: int) -> list[list[int]]:
    """What the published code does: one global generator, a sample an episode, a row a query."""
    random.seed(1)
    rows = []
    for index in range(len(dataset.categories)):
        for _ in range(episodes):
            sample = random.sample(dataset.objects(index), shots + queries)
            rows += [[*sample[:shots], query] for query in sample[shots:]]
    return rows


@pytest.mark.parametrize("shots", [1, 5])
def test_pairs_are_those_of_the_published_code(shots):
    dataset = Listed(30, 200, 20)
    plan = draw_pairs(dataset, shots=shots)
    pairs = [[*episode.supports, query] for episode in plan.episodes for query in episode.queries]
    assert pairs == published_pairs(dataset, shots, 200, 15)
    assert plan.pairs == 3 * 200 * 15
    assert plan.notes == ()


def test_the_first_pairs_are_known():
    # Typed in from a Python shell: random.seed(1); random.sample(range(20), 4).
    (episode,) = draw_pairs(Listed(20), episodes=1, queries=3).episodes
    assert (episode.supports, episode.queries) == ((104,), (118, 102, 108))


def test_drawing_does_not_touch_the_global_generator():
    random.seed(3)
    before = random.getstate()
    draw_pairs(Listed(20), episodes=2)
    assert random.getstate() == before


def test_a_small_category_gets_fewer_queries_and_episodes_and_a_note():
    plan = draw_pairs(Listed(4, 20), shots=2)
    small = [episode for episode in plan.episodes if episode.category == 0]
    assert len(small) == 4
    assert {len(episode.queries) for episode in small} == {2}
    assert plan.notes == ("kind 0: 4 objects, so 4 episodes of 2 queries instead of 200 of 15",)


def test_a_category_without_a_query_is_left_out_by_name():
    plan = draw_pairs(Listed(5, 20), shots=5)
    assert {episode.category for episode in plan.episodes} == {1}
    assert plan.notes == ("kind 0: left out, 5 objects are too few for 5-shot pairs",)


def test_a_data_set_without_enough_objects_is_refused():
    with pytest.raises(DatasetError, match="listed: no category has more than 5 objects"):
        draw_pairs(Listed(5, 3), shots=5)


@pytest.mark.parametrize(("name", "least"), [("shots", 0), ("episodes", 1), ("queries", 1)])
def test_counts_have_a_least_value(name, least):
    with pytest.raises(ValueError, match=f"{name}: at least {least}, not {least - 1}"):
        draw_pairs(Listed(20), **{name: least - 1})


def test_queries_can_come_without_supports():
    plan = draw_pairs(Listed(20), shots=0, episodes=2, queries=3)
    assert [(episode.supports, len(episode.queries)) for episode in plan.episodes] == [((), 3)] * 2
