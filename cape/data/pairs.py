"""Test pairs: which objects are the support, and which are asked for, drawn as the published code draws them.

For each category in turn 200 episodes of n supports and 15 queries, `random.sample` over the category's objects in
annotation order, one generator with seed 1 for all of them (public GraphCape and CapeX code): the very same pairs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cape.data.dataset import DatasetError, KeypointDataset

EPISODES = 200
QUERIES = 15
SEED = 1


@dataclass(frozen=True, slots=True)
class Episode:
    """A support set and what is asked of it; each query with the supports is one test pair.

    Attributes:
        category: index of the category.
        supports: ids of the support objects.
        queries: ids of the objects asked for.
    """

    category: int
    supports: tuple[int, ...]
    queries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TestPlan:
    """The pairs of an evaluation.

    Attributes:
        episodes: in the order in which they were drawn.
        notes: what is not as asked for, a sentence a category: it has too few objects.
    """

    __test__ = False  # pytest: this is no test

    episodes: tuple[Episode, ...]
    notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return sum(len(episode.queries) for episode in self.episodes)


def draw_pairs(
    dataset: KeypointDataset,
    *,
    shots: int = 1,
    episodes: int = EPISODES,
    queries: int = QUERIES,
    seed: int = SEED,
) -> TestPlan:
    """Draws the test pairs of a data set.

    A category with fewer than `shots + queries` objects gets all its other objects as queries, in at most as many
    episodes as it has objects; one without more objects than `shots` is left out. Both are noted.

    Args:
        dataset: what to draw from.
        shots: support objects of an episode; 0 for queries alone, of models that need no support image.
        episodes: episodes of a category.
        queries: queries of an episode.
        seed: of the generator.

    Raises:
        ValueError: a count is less than 1, or `shots` less than 0.
        DatasetError: no category has enough objects.
    """
    if shots < 0:
        raise ValueError(f"shots: at least 0, not {shots}")
    for name, value in (("episodes", episodes), ("queries", queries)):
        if value < 1:
            raise ValueError(f"{name}: at least 1, not {value}")
    generator = random.Random(seed)
    drawn: list[Episode] = []
    notes: list[str] = []
    for index, category in enumerate(dataset.categories):
        objects: Sequence[int] = dataset.objects(index)
        count, rounds = shots + queries, episodes
        if len(objects) <= shots:
            notes.append(f"{category.name}: left out, {len(objects)} objects are too few for {shots}-shot pairs")
            continue
        if len(objects) < count:
            count, rounds = len(objects), min(episodes, len(objects))
            notes.append(
                f"{category.name}: {len(objects)} objects, so {rounds} episodes of {count - shots} queries"
                f" instead of {episodes} of {queries}"
            )
        for _ in range(rounds):
            sample = generator.sample(objects, count)
            drawn.append(Episode(index, tuple(sample[:shots]), tuple(sample[shots:])))
    if not drawn:
        raise DatasetError(f"{dataset.name}: no category has more than {shots} objects")
    return TestPlan(tuple(drawn), tuple(notes))
