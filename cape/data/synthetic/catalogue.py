"""All species, in a fixed order, and which split each belongs to."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from cape.data.synthetic.kinds import (
    birds,
    faces,
    furniture,
    garments,
    hands,
    household,
    humans,
    insects,
    instruments,
    quadrupeds,
    sea_animals,
    tools,
    vehicles,
)
from cape.data.synthetic.species import Species

Split: TypeAlias = Literal["train", "val", "test"]
"""Whose categories: those to train on, to choose by, and to report."""

SPECIES: tuple[Species, ...] = (
    *humans.SPECIES,
    *faces.SPECIES,
    *hands.SPECIES,
    *quadrupeds.SPECIES,
    *birds.SPECIES,
    *insects.SPECIES,
    *sea_animals.SPECIES,
    *furniture.SPECIES,
    *vehicles.SPECIES,
    *garments.SPECIES,
    *tools.SPECIES,
    *household.SPECIES,
    *instruments.SPECIES,
)

_VALIDATION = frozenset(
    {
        "child body",
        "bear face",
        "glove",
        "wolf body",
        "chicken body",
        "beetle body",
        "trout body",
        "bench",
        "taxi cab",
        "coat",
        "pickaxe",
        "mug",
    }
)
"""A tenth of the categories, one of every super-category."""

_TEST = frozenset(
    {
        *("teddy bear body", "robot hand"),
        *("fox face", "sheep face", "owl face"),
        *("horse body", "tiger body", "sheep body", "elephant body"),
        *("duck body", "eagle body", "bee body", "spider body", "shark body"),
        *("armchair", "coffee table", "van", "motorcycle"),
        *("hooded jacket", "shorts", "axe", "pliers", "violin", "teapot"),
    }
)
"""A fifth of the categories, some of every super-category. The rest, seven tenths, is for training."""


def split_of(species: Species) -> Split:
    """The split that a species belongs to."""
    if species.name in _TEST:
        return "test"
    return "val" if species.name in _VALIDATION else "train"


def species_of(split: Split) -> tuple[Species, ...]:
    """The species of a split, in the order of the catalogue.

    Raises:
        ValueError: there is no such split.
    """
    if split not in get_args(Split):
        raise ValueError(f"split: train, val or test, not {split!r}")
    return tuple(species for species in SPECIES if split_of(species) == split)
