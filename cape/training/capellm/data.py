"""The numbered series of batches of a run: every group of keypoints of every object once an epoch (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.data.dataset import Category, DatasetError, KeypointDataset
from cape.training.capellm.batches import Conversation, ConversationBatch, collate
from cape.training.capellm.conversations import ConversationWriter, groups
from cape.training.data import Shots


@dataclass(frozen=True, slots=True)
class ConversationSource:
    """A data set, and what gives its crops or cached patches."""

    dataset: KeypointDataset
    shots: Shots


class ConversationBatches(Dataset[ConversationBatch]):
    """Batch by number; the same number is the same batch in every process and after a kill.

    Args:
        sources: at least one.
        tokenizer: of the model.
        writer: of the conversations.
        image_tokens: N.
        rounds: k.
        independent: see `collate`.
        batch_size: conversations of a batch.
        seed: of order and words.

    Attributes:
        epoch: conversations of an epoch: each object's ⌈K/k⌉ groups.

    Raises:
        DatasetError: there are no objects.
    """

    def __init__(
        self,
        sources: Sequence[ConversationSource],
        tokenizer: CapeLlmTokenizer,
        writer: ConversationWriter,
        *,
        image_tokens: int,
        rounds: int,
        independent: bool,
        batch_size: int,
        seed: int,
    ) -> None:
        self._sources = sources
        self._tokenizer = tokenizer
        self._writer = writer
        self._image_tokens = image_tokens
        self._rounds = rounds
        self._independent = independent
        self._batch_size = batch_size
        self._seed = seed
        # One row for each group of each object: source, category, object, group.
        items = [
            (source, category, number, group)
            for source, one in enumerate(sources)
            for category, described in enumerate(one.dataset.categories)
            for number in range(one.shots.objects(category))
            for group in range(-(-len(described.keypoints) // rounds))
        ]
        if not items:
            raise DatasetError("sources: there are no objects in them")
        self._items = np.asarray(items, dtype=np.int32)
        self.epoch = len(items)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __getitem__(self, number: int) -> ConversationBatch:
        """Makes a batch."""
        conversations = [self._conversation(number * self._batch_size + row) for row in range(self._batch_size)]
        return collate(
            conversations,
            begin=self._tokenizer.begin,
            image_tokens=self._image_tokens,
            keypoint=self._tokenizer.keypoint,
            independent=self._independent,
        )

    def _conversation(self, place: int) -> Conversation:
        """The conversation at a place of the endless series; one of no visible keypoint gives way to the next."""
        for step in range(self.epoch):
            epoch, index = divmod(place + step, self.epoch)
            if self._order[0] != epoch:
                self._order = epoch, np.random.default_rng((self._seed, epoch, 2)).permutation(self.epoch)
            source, category, number, group = self._items[self._order[1][index]]
            found = self._of_object(self._sources[source], int(category), int(number), int(group), epoch)
            if found is not None:
                return found
        raise DatasetError("sources: no object has a visible keypoint")

    def _of_object(
        self, source: ConversationSource, category: int, number: int, group: int, epoch: int
    ) -> Conversation | None:
        described: Category = source.dataset.categories[category]
        # All groups of an object in an epoch come of one draw, so that together they leave no keypoint out.
        drawn = np.random.default_rng((self._seed, epoch, category, number))
        chosen = groups(range(len(described.keypoints)), self._rounds, drawn)[group]
        generator = np.random.default_rng((self._seed, epoch, category, number, group))
        shot = source.shots.shot(category, number, generator)
        visible = np.flatnonzero(shot.visible)
        if not len(visible):
            return None
        # What is hidden here cannot be learnt from: another keypoint takes its round.
        kept = [index if shot.visible[index] else int(generator.choice(visible)) for index in chosen]
        tokens = self._tokenizer.tokens
        return Conversation(
            np.asarray(shot.image),
            tokens(self._writer.opening(described)),
            tuple(tokens(self._writer.round(described, k, shot.keypoints[k], generator)) for k in kept),
            np.asarray(shot.keypoints[kept], np.float32),
        )
