"""A category of the procedural set: what it is called and how an individual of it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from cape.data.dataset import Category
from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.solids import Body
from cape.data.synthetic.vocabulary import describe
from cape.support import KeypointDefinition

Builder: TypeAlias = Callable[[Body, np.random.Generator], None]
"""Adds one individual, in a random pose and with random colours, to an empty body."""

Bones: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of names of joined keypoints."""


@dataclass(frozen=True, slots=True)
class Species:
    """How individuals of a category are built and seen.

    Attributes:
        name: unique among all species.
        super_category: the group it belongs to.
        build: adds an individual to a body; it names the same keypoints in the same order every time.
        viewpoint: from where it is seen.
        bones: its skeleton; pairs of which it lacks a keypoint are left out.
    """

    name: str
    super_category: str
    build: Builder
    viewpoint: Viewpoint
    bones: Bones

    def category(self) -> Category:
        """The category with its texts. The keypoints are those that an individual names."""
        body = Body()
        self.build(body, np.random.default_rng(0))
        names = list(body.keypoints)
        texts = [describe(name) for name in names]
        return Category(
            self.name,
            self.super_category,
            tuple(KeypointDefinition(name, text[0]) for name, text in zip(names, texts, strict=True)),
            tuple(
                (names.index(start), names.index(end)) for start, end in self.bones if start in names and end in names
            ),
            tuple(text[1:] for text in texts),
        )


def both_sides(*bones: tuple[str, str]) -> Bones:
    """Pairs in which {side} stands for left and then for right."""
    return tuple((start.format(side=side), end.format(side=side)) for side in ("left", "right") for start, end in bones)


def chain(*names: str) -> Bones:
    """Each name joined to the next."""
    return tuple(pairwise(names))
