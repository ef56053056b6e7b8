from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from cape.data.dataset import Category
from cape.data.episodes import EpisodeSampler, Pool, Shot, TrainingEpisode, collate, keep_modalities
from cape.support import KeypointDefinition


def category(name: str, count: int, skeleton: tuple[tuple[int, int], ...] = ()) -> Category:
    return Category(name, "things", tuple(KeypointDefinition(f"{name} {i}") for i in range(count)), skeleton)


def test_categories_come_as_often_as_their_weights_say() -> None:
    pools = [Pool(category("a", 14), 50, 3.0), Pool(category("b", 17), 50, 1.0), Pool(category("c", 68), 50, 2.0)]
    sampler = EpisodeSampler(pools, seed=1)
    drawn = Counter(draw.pool for number in range(1500) for draw in sampler.batch(number, 8))
    shares = [drawn[pool] / 12000 for pool in range(3)]
    assert shares == pytest.approx([0.5, 1 / 6, 1 / 3], abs=0.03)


def test_a_batch_holds_categories_of_a_similar_size() -> None:
    sampler = EpisodeSampler([Pool(category(str(k), k), 5) for k in (5, 7, 14, 20, 68)])
    for number in range(100):
        sizes = [len(sampler.pools[draw.pool].category.keypoints) for draw in sampler.batch(number, 16)]
        assert max(sizes) <= 1.5 * min(sizes)


def test_a_query_is_never_among_its_supports_and_the_same_number_is_the_same_batch() -> None:
    sampler = EpisodeSampler([Pool(category("a", 5), 4)], shots=3, seed=7)
    for number in range(50):
        draws = sampler.batch(number, 4)
        assert draws == sampler.batch(number, 4)
        for draw in draws:
            assert sorted((*draw.supports, draw.query)) == [0, 1, 2, 3]
    assert sampler.batch(0, 4) != sampler.batch(1, 4)
    assert sampler.batch(0, 4) != EpisodeSampler(sampler.pools, shots=3, seed=8).batch(0, 4)


def test_categories_without_enough_objects_or_weight_are_never_drawn() -> None:
    sampler = EpisodeSampler([Pool(category("few", 5), 1), Pool(category("off", 5), 9, 0.0), Pool(category("b", 5), 2)])
    assert {draw.pool for number in range(30) for draw in sampler.batch(number, 4)} == {2}
    with pytest.raises(ValueError, match="no category has the 2 objects"):
        EpisodeSampler([Pool(category("few", 5), 1)])


def test_modalities_are_left_out_as_often_as_asked_and_never_both() -> None:
    generator = np.random.default_rng(0)
    kept = Counter(keep_modalities(generator, 0.3, 0.2) for _ in range(5000))
    assert kept[(False, False)] == 0
    assert kept[(False, True)] / 5000 == pytest.approx(0.3, abs=0.03)
    assert kept[(True, False)] / 5000 == pytest.approx(0.2, abs=0.03)


def episode(count: int, **changes: object) -> TrainingEpisode:
    def shot(value: float) -> Shot:
        keypoints = np.full((count, 2), value, dtype=np.float32)
        return Shot(np.full((2, 3, 3), value, dtype=np.float16), keypoints, np.ones(count, dtype=np.bool_))

    values: dict[str, object] = {
        "category": category("x", count, ((0, 1),)),
        "supports": (shot(0.25), shot(0.5)),
        "query": shot(0.75),
        "texts": np.ones((count, 4), dtype=np.float32),
    }
    return TrainingEpisode(**(values | changes))  # type: ignore[arg-type]


def test_a_batch_is_padded_with_keypoints_that_nobody_knows() -> None:
    batch = collate([episode(2), episode(3)])
    assert batch.support.shape == (2, 2, 2, 3, 3) and batch.support.dtype == torch.float32
    assert batch.query.unique().tolist() == [0.75]
    assert batch.visible[0].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert batch.target_visible.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.adjacency[0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert batch.texts is not None and batch.texts[0].sum(-1).tolist() == [4, 4, 0]
    assert batch.keypoints[1, 1].unique().tolist() == [0.5]


def test_a_dropped_modality_is_neither_visible_nor_text() -> None:
    batch = collate([episode(2, has_image=False), episode(2, has_text=False)])
    assert batch.visible.sum((1, 2)).tolist() == [0, 4]
    assert batch.texts is not None and batch.texts.sum((1, 2)).tolist() == [8, 0]
    assert batch.target_visible.sum().item() == 4


def test_images_stay_bytes() -> None:
    def pixels() -> Shot:
        return Shot(np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2), np.float32), np.ones(2, np.bool_))

    batch = collate([episode(2, supports=(pixels(),), query=pixels(), texts=None)])
    assert batch.query.dtype == torch.uint8 and batch.support.shape == (1, 1, 8, 8, 3)
    assert batch.texts is None


def test_episodes_that_share_images_stack_each_image_once() -> None:
    def shot(value: int) -> Shot:
        image = np.full((2, 2, 3), value, np.uint8)
        return Shot(image, np.full((2, 2), value / 10, np.float32), np.ones(2, np.bool_))

    shots, kind = [shot(value) for value in range(3)], category("a", 2)
    episodes = [TrainingEpisode(kind, (shots[(i + 1) % 3],), shots[i]) for i in range(3)]
    shared, plain = collate(episodes, share_images=True, multiple=16), collate(episodes)
    assert shared.query.shape == (3, 2, 2, 3) and shared.support is None and plain.support is not None
    assert shared.query_index is not None and shared.support_index is not None
    assert torch.equal(shared.query[shared.query_index], plain.query)
    assert torch.equal(shared.query[shared.support_index], plain.support)
    assert shared.target.shape == (3, 16, 2) and torch.equal(shared.target[:, :2], plain.target)
    assert shared.target_visible[:, 2:].sum() == 0


def test_a_group_is_distinct_objects_of_one_category_that_has_enough() -> None:
    pools = [Pool(category("few", 5), 3), Pool(category("many", 5), 6)]
    groups = EpisodeSampler(pools, group=4).groups(0, 8)
    assert len(groups) == 8
    assert all(pool == 1 and len(set(objects)) == 4 for pool, objects in groups)
