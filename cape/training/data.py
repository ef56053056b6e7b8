"""Where the batches of a run come from: its sources, cached or online, as one numbered series of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset, Sampler

from cape.data.crops import Jitter, crop_object
from cape.data.dataset import DatasetError, KeypointDataset
from cape.data.episodes import (
    EpisodeBatch,
    EpisodeSampler,
    Pool,
    Shot,
    TrainingEpisode,
    collate,
    keep_modalities,
    mirrored,
)
from cape.data.mirroring import mirror_partners
from cape.training.configuration import ModalityDropout, SourceConfiguration
from cape.training.texts import TextBank

TRIES = 8
"""Objects that are tried in place of one that cannot be read, before the data are given up."""


class Shots(Protocol):
    """What gives shots of a data set's objects: a `FeatureCache`, or `OnlineShots`."""

    def objects(self, category: int) -> int:
        """How many objects a category has."""

    def shot(self, category: int, number: int, generator: np.random.Generator) -> Shot:
        """An augmented view of one of them."""


class OnlineShots:
    """Shots cut out of pictures when they are asked for.

    Args:
        dataset: the data.
        jitter: augmentation.
        size: side of the crops, in pixels.
        padding: side of a plain crop ÷ longer side of the box.
    """

    def __init__(self, dataset: KeypointDataset, jitter: Jitter, *, size: int, padding: float) -> None:
        self._dataset = dataset
        self._jitter = jitter
        self._size = size
        self._padding = padding

    def objects(self, category: int) -> int:
        """How many objects a category has."""
        return len(self._dataset.objects(category))

    def shot(self, category: int, number: int, generator: np.random.Generator) -> Shot:
        """A crop of an object, uint8 [H, W, 3]; of the next one where it cannot be read.

        Raises:
            DatasetError: the next ones cannot be read either.
        """
        ids = self._dataset.objects(category)
        warp = self._jitter.draw(generator)
        for attempt in range(TRIES):
            try:
                annotated = self._dataset.load(ids[(number + attempt) % len(ids)])
            except DatasetError:
                if attempt == TRIES - 1:
                    raise
                continue
            crop = crop_object(annotated, size=self._size, padding=self._padding, warp=warp)
            return Shot(crop.image, crop.keypoints, crop.visible)
        raise AssertionError("unreachable: the last attempt returns or raises")


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """A data set, ready to be drawn from.

    Attributes:
        configuration: its weights.
        dataset: its categories.
        shots: its objects.
    """

    configuration: SourceConfiguration
    dataset: KeypointDataset
    shots: Shots

    def pools(self) -> list[Pool]:
        """Its categories with their share of all episodes.

        Raises:
            DatasetError: a category that has a weight is not there.
        """
        names = [category.name for category in self.dataset.categories]
        unknown = self.configuration.category_weights.keys() - set(names)
        if unknown:
            raise DatasetError(f"{self.dataset.name}: category_weights: there is no {', '.join(sorted(unknown))}")
        groups = [category.super_category for category in self.dataset.categories]
        unknown = self.configuration.super_category_weights.keys() - set(groups)
        if unknown:
            raise DatasetError(f"{self.dataset.name}: super_category_weights: there is no {', '.join(sorted(unknown))}")
        counts = [self.shots.objects(index) for index in range(len(names))]
        shares = [
            self.configuration.category_weights.get(name, 1.0)
            * self.configuration.super_category_weights.get(group, 1.0)
            * (count if self.configuration.categories == "objects" else float(count > 0))
            for name, group, count in zip(names, groups, counts, strict=True)
        ]
        total = sum(shares)
        if total <= 0:
            raise DatasetError(f"{self.dataset.name}: no category has an object and a weight")
        return [
            Pool(category, count, self.configuration.weight * share / total)
            for category, count, share in zip(self.dataset.categories, counts, shares, strict=True)
        ]


class EpisodeBatches(Dataset[EpisodeBatch]):
    """Batches by number; the same number is the same batch.

    Args:
        sources: where episodes come from.
        texts: of the categories of all sources, one source after the other; None for systems that read none.
        batch_size: episodes in a batch.
        shots: supports of an episode.
        dropout: how often a support lacks a modality.
        paraphrase: probability that a keypoint gets another of its texts.
        anonymous: probability that the keypoints of an episode with a support image lose their names.
        seed: of everything that is drawn.
        group: images of a category that are drawn together and are each other's supports; 0: none are.
        rounds: episodes of a group in which an image is the query.
        multiple: keypoints are padded to a multiple of this.

    Raises:
        DatasetError: the data do not make a single episode.
    """

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        texts: TextBank | None,
        *,
        batch_size: int,
        shots: int = 1,
        dropout: ModalityDropout | None = None,
        paraphrase: float = 0.0,
        anonymous: float = 0.0,
        seed: int = 0,
        group: int = 0,
        rounds: int = 1,
        multiple: int = 1,
    ) -> None:
        self._multiple = multiple
        self._texts = texts
        self._anonymous = anonymous
        self._group = group
        self._rounds = rounds
        self._batch_size = batch_size
        self._dropout = dropout or ModalityDropout()
        self._paraphrase = paraphrase
        self._seed = seed
        pools: list[Pool] = []
        self._places: list[tuple[TrainingSource, int]] = []
        for source in sources:
            found = source.pools()
            pools.extend(found)
            self._places.extend((source, index) for index in range(len(found)))
        try:
            self.sampler = EpisodeSampler(pools, shots=shots, seed=seed, group=group)
        except ValueError as error:
            raise DatasetError(f"{', '.join(source.dataset.name for source in sources)}: {error}") from None

    def __getitem__(self, number: int) -> EpisodeBatch:
        """Makes a batch."""
        generator = np.random.default_rng((self._seed, number, 1))
        episodes = []
        if self._group:
            for pool, objects in self.sampler.groups(number, self._batch_size // (self._group * self._rounds)):
                shots = self._shots(pool, objects, generator)
                for distance in range(1, self._rounds + 1):
                    for index, query in enumerate(shots):
                        support = shots[(index + distance) % len(shots)]
                        episodes.append(self._episode(pool, (support,), query, generator))
            return collate(episodes, share_images=True, multiple=self._multiple)
        for draw in self.sampler.batch(number, self._batch_size):
            *supports, query = self._shots(draw.pool, (*draw.supports, draw.query), generator)
            episodes.append(self._episode(draw.pool, tuple(supports), query, generator))
        return collate(episodes, multiple=self._multiple)

    def _shots(self, pool: int, objects: Sequence[int], generator: np.random.Generator) -> list[Shot]:
        """Views of objects of a category, all of them mirrored or none."""
        source, category = self._places[pool]
        flip = source.configuration.flip
        turned = flip > 0 and generator.random() < flip
        shots = [source.shots.shot(category, number, generator) for number in objects]
        if not turned:
            return shots
        partners = mirror_partners([keypoint.name for keypoint in self.sampler.pools[pool].category.keypoints])
        return [mirrored(shot, partners) for shot in shots]

    def _episode(
        self, pool: int, supports: tuple[Shot, ...], query: Shot, generator: np.random.Generator
    ) -> TrainingEpisode:
        has_image, has_text = keep_modalities(generator, self._dropout.image, self._dropout.text)
        texts = None
        if self._texts is not None:
            unnamed = self._anonymous > 0 and has_image and generator.random() < self._anonymous
            texts = self._texts.anonymous(pool) if unnamed else self._texts.choose(pool, generator, self._paraphrase)
        return TrainingEpisode(self.sampler.pools[pool].category, supports, query, texts, has_image, has_text)


class BatchNumbers(Sampler[int]):
    """The numbers of the batches of one process, without end.

    Args:
        first: the first one.
        stride: from one to the next: how many processes take turns.
    """

    def __init__(self, first: int, stride: int = 1) -> None:
        self._first = first
        self._stride = stride

    def __iter__(self) -> Iterator[int]:
        number = self._first
        while True:
            yield number
            number += self._stride
