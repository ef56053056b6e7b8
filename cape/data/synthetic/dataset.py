"""The procedural data set: any number of pictures of many kinds of things, drawn on demand from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

from cape.data.dataset import AnnotatedObject, Category, DatasetError
from cape.data.synthetic.backdrops import Backdrops
from cape.data.synthetic.catalogue import Split, species_of
from cape.data.synthetic.photograph import photograph


class SyntheticDataset:
    """Pictures of objects of the categories of one split; implements `cape.data.dataset.KeypointDataset`.

    Nothing is stored: `load` draws an object whenever it is asked for. What it draws depends on the seed, the
    category's name and the object's number alone, so it is the same in every process and in any order.

    Args:
        split: whose categories; no category is in two splits.
        objects_per_category: how many objects each category has.
        seed: another seed is another set of pictures, 0 or more.
        backdrops: a folder of real images, parts of which stand behind most objects; None: all backdrops are drawn.

    Raises:
        DatasetError: there is no image in `backdrops`.
        ValueError: there is no such split, or a number is out of its range.
    """

    def __init__(
        self, split: Split = "train", *, objects_per_category: int = 200, seed: int = 0, backdrops: Path | None = None
    ) -> None:
        if objects_per_category < 1:
            raise ValueError(f"objects_per_category: at least 1, not {objects_per_category}")
        if seed < 0:
            raise ValueError(f"seed: 0 or more, not {seed}")
        self.split: Split = split
        self.objects_per_category = objects_per_category
        self.seed = seed
        self._backdrops = None if backdrops is None else Backdrops(backdrops)
        self._species = species_of(split)
        self._categories = tuple(species.category() for species in self._species)

    @property
    def name(self) -> str:
        """What tables call it: "synthetic (test)"."""
        return f"synthetic ({self.split})"

    @property
    def categories(self) -> Sequence[Category]:
        """The categories of the split, in a fixed order."""
        return self._categories

    def objects(self, category: int) -> Sequence[int]:
        """Ids of the objects of a category, by its index."""
        first = range(len(self._categories))[category] * self.objects_per_category
        return range(first, first + self.objects_per_category)

    def load(self, object_id: int) -> AnnotatedObject:
        """Draws one object.

        Raises:
            DatasetError: there is no object of that id.
        """
        category, number = divmod(object_id, self.objects_per_category)
        if not 0 <= category < len(self._species):
            raise DatasetError(f"{self.name}: there is no object {object_id}")
        species = self._species[category]
        # The name, not the position: pictures stay the same when categories are added.
        seed = np.random.SeedSequence((self.seed, crc32(species.name.encode()), number))
        return photograph(species, np.random.default_rng(seed), self._backdrops)
