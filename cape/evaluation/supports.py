"""Makes supports from objects of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cape.data.dataset import AnnotatedObject, Category
from cape.support import SupportDefinition, SupportExample


def support_definition(category: Category, objects: Sequence[AnnotatedObject]) -> SupportDefinition:
    """Makes a support from a category and some of its objects.

    Args:
        category: source of names, descriptions and skeleton.
        objects: become one example each; objects without a visible keypoint are left out.
    """
    return SupportDefinition(
        category=category.name,
        keypoints=category.keypoints,
        # Servers reject edges from a keypoint to itself; they have no meaning in the graph.
        skeleton=tuple((start, end) for start, end in category.skeleton if start != end),
        examples=tuple(
            SupportExample(image=found.image, keypoints=found.keypoints, visible=found.visible, box=found.box)
            for found in objects
            if found.visible.any()
        ),
    )


def seen_in_all(objects: Sequence[AnnotatedObject]) -> npt.NDArray[np.bool_]:
    """Returns bool [K], True for keypoints visible in every object."""
    return np.asarray(np.logical_and.reduce([found.visible for found in objects]))
