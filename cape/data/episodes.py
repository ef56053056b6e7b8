"""Training episodes: a category, its supports and a query, drawn at random and stacked into padded batches.

Every draw is a function of a seed and a number alone: nothing has to be remembered to go on after a kill, and
processes side by side take turns by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cape.data.dataset import Category
from cape.data.mirroring import mirror_partners

BUCKET_RATIO = 1.5
"""Categories share a batch only while the largest has at most this many times the keypoints of the smallest."""

MODALITIES_KEPT = ((True, True), (False, True), (True, False))
"""(image, text) of an episode: both, or without the one or the other."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A category to draw episodes from.

    Attributes:
        category: its keypoints and skeleton.
        objects: how many objects of it there are to draw from.
        weight: how often it is drawn, relative to others.
    """

    category: Category
    objects: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Draw:
    """An episode, by numbers.

    Attributes:
        pool: index of the pool.
        supports: the support objects, by their number in the pool.
        query: the object asked for, likewise; none of the supports.
    """

    pool: int
    supports: tuple[int, ...]
    query: int


class EpisodeSampler:
    """Draws batches of episodes.

    A batch holds categories with a similar number of keypoints, so that little of it is padding; over many
    batches a category still comes as often as its weight says.

    Args:
        pools: the categories; those with too few objects are never drawn.
        shots: support objects of an episode.
        seed: of all draws.
        group: objects of a category that are drawn together, for `groups`; 0: no groups are drawn.

    Raises:
        ValueError: no category has enough objects, or a weight is negative.
    """

    def __init__(self, pools: Sequence[Pool], *, shots: int = 1, seed: int = 0, group: int = 0) -> None:
        if shots < 1:
            raise ValueError(f"shots: at least 1, not {shots}")
        self.objects_drawn = max(shots + 1, group)
        if any(pool.weight < 0 for pool in pools):
            raise ValueError("weight: 0 or more")
        self.pools = tuple(pools)
        self.shots = shots
        self.seed = seed
        needed = self.objects_drawn
        usable = [i for i, pool in enumerate(self.pools) if pool.objects >= needed and pool.weight > 0]
        if not usable:
            raise ValueError(f"no category has the {needed} objects that {'a group' if group else 'an episode'} needs")
        self._buckets = _buckets(self.pools, usable)
        weights = np.array([sum(self.pools[i].weight for i in bucket) for bucket in self._buckets])
        self._bucket_share = weights / weights.sum()

    def batch(self, number: int, size: int) -> list[Draw]:
        """Draws a batch.

        Args:
            number: which one; the same number is the same batch.
            size: episodes in it.
        """
        return [
            Draw(pool, objects[: self.shots], objects[self.shots])
            for pool, objects in self._drawn(number, size, self.shots + 1)
        ]

    def groups(self, number: int, count: int) -> list[tuple[int, tuple[int, ...]]]:
        """Draws groups of objects, each of one category.

        Args:
            number: of the batch; the same number is the same groups.
            count: how many groups.

        Returns:
            For each group the index of its pool and the numbers of its distinct objects.
        """
        return self._drawn(number, count, self.objects_drawn)

    def _drawn(self, number: int, count: int, objects: int) -> list[tuple[int, tuple[int, ...]]]:
        generator = np.random.default_rng((self.seed, number))
        bucket = self._buckets[generator.choice(len(self._buckets), p=self._bucket_share)]
        weights = np.array([self.pools[i].weight for i in bucket])
        chosen = generator.choice(bucket, size=count, p=weights / weights.sum())
        return [
            (pool, tuple(generator.choice(self.pools[pool].objects, size=objects, replace=False).tolist()))
            for pool in chosen.tolist()
        ]


def _buckets(pools: Sequence[Pool], usable: Sequence[int]) -> list[list[int]]:
    """Indices of pools, grouped by a similar number of keypoints."""
    buckets: list[list[int]] = []
    smallest = 0
    for index in sorted(usable, key=lambda i: len(pools[i].category.keypoints)):
        count = len(pools[index].category.keypoints)
        if not buckets or count > BUCKET_RATIO * smallest:
            buckets.append([])
            smallest = count
        buckets[-1].append(index)
    return buckets


def keep_modalities(
    generator: np.random.Generator, without_image: float = 0.0, without_text: float = 0.0
) -> tuple[bool, bool]:
    """Draws what an episode's support is to have: (image, text), never neither.

    Args:
        generator: draws.
        without_image, without_text: probabilities that it lacks the one or the other, together at most 1.
    """
    shares = (1 - without_image - without_text, without_image, without_text)
    return MODALITIES_KEPT[generator.choice(3, p=shares)]


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """An object in an episode.

    Attributes:
        image: RGB crop, uint8 [H, W, 3]; or the features of one, float16 or float32 [C, F, F].
        keypoints: float32 [K, 2], fractions of the crop.
        visible: bool [K].
    """

    image: npt.NDArray[np.generic]
    keypoints: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]


def mirrored(shot: Shot, partners: Sequence[int]) -> Shot:
    """A shot seen in a mirror: the image left to right, each keypoint under its partner's index.

    Args:
        shot: a shot whose image is a crop, uint8 [H, W, 3].
        partners: from `mirror_partners`.
    """
    order = list(partners)
    keypoints = np.where(shot.visible[:, None], shot.keypoints * (-1, 1) + (1, 0), 0).astype(np.float32)
    return Shot(np.ascontiguousarray(shot.image[:, ::-1]), keypoints[order], shot.visible[order])


@dataclass(frozen=True, slots=True, eq=False)
class TrainingEpisode:
    """One batch item.

    Attributes:
        category: whose keypoints; its skeleton joins them.
        supports: the support shots.
        query: the shot asked for.
        texts: one row per keypoint: an embedding float32 [K, D], or token ids int64 [K, T] (0: padding).
        has_image, has_text: False where the support is to lack the modality.
    """

    category: Category
    supports: tuple[Shot, ...]
    query: Shot
    texts: npt.NDArray[np.generic] | None = None
    has_image: bool = True
    has_text: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeBatch:
    """Episodes side by side, padded to the most keypoints among them; padded keypoints are neither visible nor text.

    Attributes:
        query: uint8 [B, H, W, 3] or float features [B, C, F, F]. Where episodes share images: the N distinct ones,
            [N, …], queries and supports alike.
        support: uint8 [B, S, H, W, 3] or float features [B, S, C, F, F]; None where episodes share images.
        keypoints: float32 [B, S, K, 2], of the supports, fractions of the crop.
        visible: float32 [B, S, K], 1 or 0.
        adjacency: float32 [B, K, K], 1 where two keypoints are joined.
        target: float32 [B, K, 2], of the query.
        target_visible: float32 [B, K].
        partner: int64 [B, K], the keypoint that each one becomes in a mirrored image; see `mirror_partners`.
        texts: embeddings float32 [B, K, D], token ids int64 [B, K, T], or None.
        query_index: int64 [B], which of the shared images is the query; None where none are shared.
        support_index: int64 [B, S], which of them are the supports; likewise.
    """

    query: Tensor
    support: Tensor | None
    keypoints: Tensor
    visible: Tensor
    adjacency: Tensor
    target: Tensor
    target_visible: Tensor
    partner: Tensor
    texts: Tensor | None = None
    query_index: Tensor | None = None
    support_index: Tensor | None = None

    def to(self, device: torch.device | str) -> EpisodeBatch:
        """The same on another device."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = None if value is None else value.to(device, non_blocking=True)
        return EpisodeBatch(**moved)

    def pin_memory(self) -> EpisodeBatch:
        """The same in page-locked memory, from which copies to a GPU run beside its work."""
        pinned: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            pinned[field.name] = None if value is None else value.pin_memory()
        return EpisodeBatch(**pinned)


def collate(episodes: Sequence[TrainingEpisode], *, share_images: bool = False, multiple: int = 1) -> EpisodeBatch:
    """Stacks episodes of the same number of shots.

    Args:
        episodes: what to stack.
        share_images: stack each `Shot` once, however many episodes it is in.
        multiple: pad keypoints to a multiple of this.

    Raises:
        ValueError: there are none.
    """
    if not episodes:
        raise ValueError("a batch needs an episode")
    batch, shots = len(episodes), len(episodes[0].supports)
    most = max(len(episode.category.keypoints) for episode in episodes)
    most = -(-most // multiple) * multiple
    keypoints = np.zeros((batch, shots, most, 2), dtype=np.float32)
    visible = np.zeros((batch, shots, most), dtype=np.float32)
    adjacency = np.zeros((batch, most, most), dtype=np.float32)
    target = np.zeros((batch, most, 2), dtype=np.float32)
    target_visible = np.zeros((batch, most), dtype=np.float32)
    partner = np.tile(np.arange(most, dtype=np.int64), (batch, 1))
    for row, episode in enumerate(episodes):
        count = len(episode.category.keypoints)
        target[row, :count] = episode.query.keypoints
        target_visible[row, :count] = episode.query.visible
        partner[row, :count] = mirror_partners([keypoint.name for keypoint in episode.category.keypoints])
        for start, end in episode.category.skeleton:
            adjacency[row, start, end] = adjacency[row, end, start] = 1
        for shot, support in enumerate(episode.supports):
            keypoints[row, shot, :count] = support.keypoints
            visible[row, shot, :count] = support.visible if episode.has_image else 0
    queries = [episode.query for episode in episodes]
    supports = [shot for episode in episodes for shot in episode.supports]
    query_index = support_index = own_supports = None
    if share_images:
        # Shots compare by identity: the same object drawn twice is two images.
        places = {id(shot): shot for shot in (*queries, *supports)}
        images = _stack([shot.image for shot in places.values()])
        order = {key: index for index, key in enumerate(places)}
        query_index = torch.tensor([order[id(shot)] for shot in queries])
        support_index = torch.tensor([order[id(shot)] for shot in supports]).unflatten(0, (batch, shots))
    else:
        images = _stack([shot.image for shot in queries])
        own_supports = _stack([shot.image for shot in supports]).unflatten(0, (batch, shots))
    return EpisodeBatch(
        query=images,
        support=own_supports,
        keypoints=torch.from_numpy(keypoints),
        visible=torch.from_numpy(visible),
        adjacency=torch.from_numpy(adjacency),
        target=torch.from_numpy(target),
        target_visible=torch.from_numpy(target_visible),
        partner=torch.from_numpy(partner),
        texts=_texts(episodes, most),
        query_index=query_index,
        support_index=support_index,
    )


def _stack(images: Sequence[npt.NDArray[np.generic]]) -> Tensor:
    """Images stay bytes; features become float32."""
    stacked = torch.from_numpy(np.stack(images))
    return stacked if stacked.dtype == torch.uint8 else stacked.float()


def _texts(episodes: Sequence[TrainingEpisode], most: int) -> Tensor | None:
    first = episodes[0].texts
    if first is None:
        return None
    width = max(episode.texts.shape[1] for episode in episodes if episode.texts is not None)
    texts = np.zeros((len(episodes), most, width), dtype=first.dtype)
    for row, episode in enumerate(episodes):
        if episode.texts is not None and episode.has_text:
            texts[row, : episode.texts.shape[0], : episode.texts.shape[1]] = episode.texts
    return torch.from_numpy(texts)
