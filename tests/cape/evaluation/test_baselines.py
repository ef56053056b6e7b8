"""Guesses that look at no picture, by hand."""

from __future__ import annotations

import numpy as np

from cape.evaluation.baselines import CentreEstimator, MeanEstimator
from cape.evaluation.estimator import QueryObject
from cape.support import SupportDefinition
from tests.cape.evaluation.conftest import Squares


def query(squares: Squares, object_id: int) -> QueryObject:
    found = squares.load(object_id)
    return QueryObject(object_id, found.image, found.box)


def support(squares: Squares) -> SupportDefinition:
    category = squares.categories[0]
    return SupportDefinition(category.name, category.keypoints, category.skeleton)


def test_the_centre_is_that_of_each_box() -> None:
    squares = Squares()
    queries = [query(squares, 0), query(squares, 2)]
    answer = CentreEstimator().estimate(support(squares), queries)
    for asked, pose in zip(queries, answer.poses, strict=True):
        middle = (asked.box.x + asked.box.width / 2, asked.box.y + asked.box.height / 2)
        np.testing.assert_allclose(pose.keypoints, [middle] * 4, atol=1e-4)
    assert answer.modalities == ()


def test_the_mean_place_is_exact_where_every_object_is_alike() -> None:
    squares = Squares()
    (pose,) = MeanEstimator(squares).estimate(support(squares), [query(squares, 3)]).poses
    np.testing.assert_allclose(pose.keypoints, squares.load(3).keypoints, atol=1e-3)


def test_the_mean_is_of_others_and_of_what_they_show() -> None:
    class Shifted(Squares):
        """Corners that move by a tenth of the box with each object."""

        def load(self, object_id: int):
            found = super().load(object_id)
            found.keypoints[:, 0] += found.box.width * 0.1 * (object_id % 1000)
            return found

    squares = Shifted(hidden={1: (0,), 0: (3,), 1000: (0,)})
    hidden = [object_id for object_id in range(3) if not squares.load(object_id).visible[0]]
    (pose,) = MeanEstimator(squares).estimate(support(squares), [query(squares, 3)]).poses
    box = squares.load(3).box
    shares = (pose.keypoints[:, 0] - box.x) / box.width
    shown = [0.1 * object_id for object_id in range(3) if object_id not in hidden]
    assert abs(shares[0] - np.mean(shown)) < 1e-4
    assert abs(shares[1] - 1 - np.mean([0.0, 0.1, 0.2])) < 1e-4


def test_a_keypoint_that_no_other_shows_is_put_in_the_middle() -> None:
    squares = Squares(objects=1)
    (pose,) = MeanEstimator(squares).estimate(support(squares), [query(squares, 0)]).poses
    box = squares.load(0).box
    np.testing.assert_allclose(pose.keypoints[0], (box.x + box.width / 2, box.y + box.height / 2), atol=1e-4)
