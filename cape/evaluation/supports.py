"""Objects of a data set as the support that a model gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cape.data.dataset import AnnotatedObject, Category
from cape.support import SupportDefinition, SupportExample


def support_definition(category: Category, objects: Sequence[AnnotatedObject]) -> SupportDefinition:
    """A category and some of its objects as a support.

    Args:
        category: gives names, descriptions and skeleton.
        objects: one example each; one without a visible keypoint teaches nothing and is left out.
    """
    return SupportDefinition(
        category=category.name,
        keypoints=category.keypoints,
        # Servers refuse an edge from a keypoint to itself; for a graph it means nothing.
        skeleton=tuple((start, end) for start, end in category.skeleton if start != end),
        examples=tuple(
            SupportExample(image=found.image, keypoints=found.keypoints, visible=found.visible, box=found.box)
            for found in objects
            if found.visible.any()
        ),
    )


def seen_in_all(objects: Sequence[AnnotatedObject]) -> npt.NDArray[np.bool_]:
    """bool [K]: which keypoints are visible in every object."""
    return np.asarray(np.logical_and.reduce([found.visible for found in objects]))
