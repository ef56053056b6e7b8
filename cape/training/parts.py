"""Part of a data set's objects, so that some can be held out of training and looked at instead."""

from __future__ import annotations

from collections.abc import Sequence

from cape.data.dataset import AnnotatedObject, Category, KeypointDataset


class DatasetPart:
    """The first or the last objects of every category. A `KeypointDataset`.

    Args:
        dataset: the whole.
        held_out: how many objects at the end of each category are held out.
        take: 'first': all others, for training; 'last': those.
    """

    def __init__(self, dataset: KeypointDataset, held_out: int, take: str) -> None:
        self._dataset = dataset
        self._chosen = slice(0, -held_out) if take == "first" else slice(-held_out, None)
        self._name = dataset.name if take == "first" else f"{dataset.name}, held out"

    @property
    def name(self) -> str:
        """The whole's name, and whether these are the held-out objects."""
        return self._name

    @property
    def categories(self) -> Sequence[Category]:
        """Those of the whole."""
        return self._dataset.categories

    def objects(self, category: int) -> Sequence[int]:
        """Ids of the objects of this part."""
        return self._dataset.objects(category)[self._chosen]

    def load(self, object_id: int) -> AnnotatedObject:
        """Reads an object.

        Raises:
            DatasetError: its image is missing or cannot be read.
        """
        return self._dataset.load(object_id)
