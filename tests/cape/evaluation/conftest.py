"""A tiny data set of coloured squares, and a photograph-free estimator whose mistakes are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cape.data.dataset import AnnotatedObject, Category, DatasetError
from cape.evaluation.estimator import EpisodeAnswer, EstimatedPose, QueryObject
from cape.modalities import MissingModalityError
from cape.support import Box, KeypointDefinition, Modality, SupportDefinition

SIZE = 100


class Squares:
    """Objects whose keypoints are the corners of their box; a `KeypointDataset` in memory."""

    name = "squares"

    def __init__(self, objects: int = 4, hidden: dict[int, Sequence[int]] | None = None) -> None:
        names = ("left upper corner", "right upper corner", "right lower corner", "left lower corner")
        keypoints = tuple(KeypointDefinition(name) for name in names)
        self.categories = [
            Category("red square", "squares", keypoints, ((0, 1), (1, 2), (2, 3), (3, 0))),
            Category("blue square", "squares", keypoints, (), tuple((f"the corner {i}",) for i in range(4))),
        ]
        self._count = objects
        self._hidden = hidden or {}

    def objects(self, category: int) -> list[int]:
        return [category * 1000 + number for number in range(self._count)]

    def load(self, object_id: int) -> AnnotatedObject:
        category, number = divmod(object_id, 1000)
        if number >= self._count:
            raise DatasetError(f"{self.name}: there is no object {object_id}")
        side = 40.0 + number
        box = Box(20, 25, side, side / 2)
        image = np.full((SIZE, SIZE, 3), 30, dtype=np.uint8)
        image[25 : 25 + int(side / 2), 20 : 20 + int(side), 2 * category] = 200
        corners = np.array([[0, 0], [side, 0], [side, side / 2], [0, side / 2]], dtype=np.float32)
        visible = np.ones(4, dtype=np.bool_)
        visible[list(self._hidden.get(object_id, ()))] = False
        return AnnotatedObject(image, box, corners + np.array([20, 25], dtype=np.float32), visible)


class Offset:
    """Answers the corners of the box, each moved right by a share of its longer side.

    Args:
        shares: [4], error of each keypoint.
        scores: [4].
        needs: modalities that it cannot do without.
        uses: what it uses of a support, where it is there.
        located: [4]; None for all.
    """

    def __init__(
        self,
        shares: Sequence[float],
        scores: Sequence[float] = (0.9, 0.9, 0.9, 0.9),
        needs: Sequence[Modality] = (),
        uses: Sequence[Modality] = ("image", "text"),
        located: Sequence[bool] | None = None,
    ) -> None:
        self._shares = np.array(shares, dtype=np.float32)
        self._scores = np.array(scores, dtype=np.float32)
        self._located = np.array(located or [True] * 4, dtype=np.bool_)
        self._needs, self._uses = needs, uses
        self.supports: list[SupportDefinition] = []
        self.queries: list[int] = []

    name = "corners with an offset"

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        self.supports.append(support)
        self.queries += [query.object_id for query in queries]
        there: dict[Modality, bool] = {
            "image": bool(support.examples),
            "text": not support.modalities or "text" in support.modalities,
        }
        for kind in self._needs:
            if not there[kind]:
                raise MissingModalityError(f"it needs {kind}")
        poses = []
        for query in queries:
            box = query.box
            corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * [box.width, box.height] + [box.x, box.y]
            corners[:, 0] += self._shares * max(box.width, box.height)
            poses.append(EstimatedPose(corners.astype(np.float32), self._scores, self._located))
        return EpisodeAnswer(tuple(poses), tuple(kind for kind in self._uses if there[kind]))

    def close(self) -> None:
        pass


@pytest.fixture
def squares() -> Squares:
    return Squares()
