"""Ranking and reliability of scores, against cases worked out by hand and a count of all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cape.data.pairs import draw_pairs
from cape.evaluation.calibration import auroc, calibrate, expected_calibration_error, reliability_bins
from cape.evaluation.reliability import reliability_diagram
from cape.evaluation.run import run_pairs
from tests.cape.evaluation.conftest import Offset, Squares


@pytest.mark.parametrize(
    ("values", "positive", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0.0),
        ([1, 3, 2, 4], [0, 0, 1, 1], 0.75),  # of four pairs only 3 before 2 is the wrong way round
        ([5, 5, 5, 5], [0, 1, 0, 1], 0.5),  # all tie
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),  # 2 > 1, 2 = 2 (half), 3 > 1, 3 > 2: 3.5 of 4
        ([0, 0, 1], [1, 0, 1], 0.75),  # 0 = 0 (half), 1 > 0: 1.5 of 2
    ],
)
def test_auroc_worked_out_by_hand(values, positive, expected):
    assert auroc(values, np.array(positive, dtype=bool)) == pytest.approx(expected)


def test_auroc_is_the_share_of_pairs_in_order_with_many_ties():
    generator = np.random.default_rng(4)
    values, positive = generator.integers(0, 6, 200), generator.random(200) > 0.7
    above = values[positive][:, None] > values[~positive][None, :]
    tied = values[positive][:, None] == values[~positive][None, :]
    assert auroc(values, positive) == pytest.approx((above + 0.5 * tied).mean())


def test_auroc_needs_both_kinds():
    assert math.isnan(auroc([1.0, 2.0], [True, True]))
    assert math.isnan(auroc([1.0, 2.0], [False, False]))


def test_reliability_worked_out_by_hand():
    # Two bins: scores .1 and .3 (one right), and .6, .8, 1.0 (two right).
    bins = reliability_bins([0.1, 0.3, 0.6, 0.8, 1.0], [True, False, True, True, False], bins=2)
    assert [(one.low, one.high, one.count) for one in bins] == [(0, 0.5, 2), (0.5, 1, 3)]
    assert [one.score for one in bins] == pytest.approx([0.2, 0.8])
    assert [one.right for one in bins] == pytest.approx([0.5, 2 / 3])
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.3 + 3 * (0.8 - 2 / 3)) / 5)


def test_empty_bins_say_nothing():
    bins = reliability_bins([1.0], [True])
    assert [one.count for one in bins] == [0] * 9 + [1]
    assert math.isnan(bins[0].right)
    assert expected_calibration_error(bins) == 0
    assert math.isnan(expected_calibration_error(reliability_bins([], [])))


def test_low_scores_of_wrong_keypoints_are_found_and_what_is_not_located_is_left_out():
    dataset = Squares()
    plan = draw_pairs(dataset, episodes=1, queries=2)
    estimator = Offset([0.0, 0.19, 0.21, 0.5], scores=[0.9, 0.8, 0.3, 0.0], located=[True, True, True, False])
    calibration = calibrate(run_pairs(dataset, plan, estimator).results)
    assert calibration.keypoints == 2 * 2 * 3
    assert calibration.wrong == pytest.approx(1 / 3)
    assert calibration.auroc == 1
    assert calibration.ece == pytest.approx((0.1 + 0.2 + 0.3) / 3)


def test_the_diagram_shows_bars_and_works_without_any_keypoint():
    full = reliability_diagram(calibrate(_results([0.0, 0.1, 0.3, 0.5], [0.9, 0.7, 0.4, 0.1])))
    empty = reliability_diagram(calibrate([]))
    assert full.shape == empty.shape
    bar = (full == (76, 120, 200)).all(axis=2)
    assert bar.sum() > 10_000
    assert not (empty == (76, 120, 200)).all(axis=2).any()


def _results(shares, scores):
    dataset = Squares()
    return run_pairs(dataset, draw_pairs(dataset, episodes=1, queries=2), Offset(shares, scores)).results
