"""Degraded supports: an extended version of the robustness study of the multi-modal paper (Figure 7).

The paper shows predictions with other descriptions; here every variation is measured on the same pairs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from cape.data.dataset import Category
from cape.evaluation.texts import meaningless, misspelt, reworded
from cape.support import KeypointDefinition, Modality, SupportDefinition

VariationName: TypeAlias = Literal[
    "paraphrased", "misspelt", "missing_texts", "renamed", "names_only", "no_texts", "no_image"
]

VARIATIONS: tuple[VariationName, ...] = get_args(VariationName)

Change: TypeAlias = Callable[[SupportDefinition, Category, random.Random], SupportDefinition]


@dataclass(frozen=True, slots=True)
class Variation:
    """A way to change supports.

    Attributes:
        name: its name in configurations.
        description: what it does, for reports.
        changes: the modality that it changes. A model that does not use this modality is not affected.
        change: maps a support, its category and a generator to the changed support.
    """

    name: VariationName
    description: str
    changes: Modality
    change: Change


def variation(name: VariationName, missing_share: float) -> Variation:
    """Makes a variation by name.

    Args:
        name: one of `VARIATIONS`.
        missing_share: share of the keypoints, 0–1, whose text "missing_texts" removes.
    """
    if name == "paraphrased":
        return Variation(name, "every text in other words of the same meaning", "text", _paraphrase)
    if name == "misspelt":
        return Variation(name, "one typo in every text", "text", _misspell)
    if name == "missing_texts":
        description = f"{missing_share:.0%} of the keypoints have a number in place of their text"

        def remove(support: SupportDefinition, category: Category, generator: random.Random) -> SupportDefinition:
            return _remove_texts(support, missing_share, generator)

        return Variation(name, description, "text", remove)
    if name == "renamed":
        return Variation(name, "every keypoint by another name, descriptions as they are", "text", _rename)
    if name == "names_only":
        return Variation(name, "names without descriptions", "text", _without_descriptions)
    if name == "no_texts":
        return Variation(name, "no texts: only the support images may be used", "text", _only_images)
    return Variation(name, "no support image: only the texts may be used", "image", _only_texts)


def _paraphrase(support: SupportDefinition, category: Category, generator: random.Random) -> SupportDefinition:
    texts = []
    for index, text in enumerate(category.texts):
        written = category.paraphrases[index] if index < len(category.paraphrases) else ()
        texts.append(generator.choice(written) if written else reworded(text, category.name, generator))
    return _with_texts(support, texts)


def _misspell(support: SupportDefinition, category: Category, generator: random.Random) -> SupportDefinition:
    return _with_texts(support, [misspelt(text, generator) for text in category.texts])


def _remove_texts(support: SupportDefinition, share: float, generator: random.Random) -> SupportDefinition:
    count = len(support.keypoints)
    removed = set(generator.sample(range(count), min(count, math.ceil(share * count))))
    texts = [
        meaningless(index) if index in removed else keypoint.description or keypoint.name
        for index, keypoint in enumerate(support.keypoints)
    ]
    return _with_texts(support, texts)


def _rename(support: SupportDefinition, category: Category, generator: random.Random) -> SupportDefinition:
    """Replaces names by others of the same meaning (CapeLLM, section 4.4, Figure 4). Systems that read one text per
    keypoint read the description and are affected only where there is none."""
    renamed = []
    for index, keypoint in enumerate(support.keypoints):
        written = category.paraphrases[index] if index < len(category.paraphrases) else ()
        other = generator.choice(written) if written else reworded(keypoint.name, category.name, generator)
        renamed.append(KeypointDefinition(other, keypoint.description))
    return replace(support, keypoints=tuple(renamed))


def _without_descriptions(
    support: SupportDefinition, category: Category, generator: random.Random
) -> SupportDefinition:
    """Removes descriptions (CapeLLM, Table 3, without description)."""
    return replace(support, keypoints=tuple(KeypointDefinition(keypoint.name) for keypoint in support.keypoints))


def _only_images(support: SupportDefinition, category: Category, generator: random.Random) -> SupportDefinition:
    return replace(support, modalities=("image",))


def _only_texts(support: SupportDefinition, category: Category, generator: random.Random) -> SupportDefinition:
    return replace(support, examples=(), modalities=("text",))


def _with_texts(support: SupportDefinition, texts: Sequence[str]) -> SupportDefinition:
    """Replaces descriptions. Names stay, because they identify keypoints."""
    keypoints = tuple(
        KeypointDefinition(keypoint.name, text) for keypoint, text in zip(support.keypoints, texts, strict=True)
    )
    return replace(support, keypoints=keypoints)
