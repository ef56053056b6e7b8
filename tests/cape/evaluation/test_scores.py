"""PCK, NME, AUC and EPE against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cape.evaluation.metrics import box_length, mean_scores, pck, pixel_errors, score_pair
from cape.support import Box


def test_pck_is_strict_at_its_threshold():
    # Box of 100: errors of 4, 5, 10, 20 and 25 pixels.
    distances = [0.04, 0.05, 0.10, 0.20, 0.25]
    assert pck(distances, 0.05) == 1 / 5
    assert pck(distances, 0.1) == 2 / 5
    assert pck(distances, 0.2) == 3 / 5
    assert pck(distances, 0.25) == 4 / 5


@pytest.mark.parametrize(
    ("error", "length", "threshold"), [(15, 100, 0.15), (3, 20, 0.15), (10, 50, 0.2), (7, 140, 0.05)]
)
def test_an_error_of_exactly_the_threshold_is_wrong(error, length, threshold):
    assert pck(np.array([error], dtype=np.float32) / length, threshold) == 0


def test_errors_are_measured_by_the_longer_side_of_the_box():
    assert box_length(Box(3, 4, 30, 80)) == 80
    assert box_length(Box(3, 4, 90, 80)) == 90


def test_a_pair_worked_out_by_hand():
    # Box 50 × 100. Three keypoints, 5 (a 3-4-5 triangle), 0 and 30 pixels off: .05, 0 and .3 of the box.
    errors = pixel_errors([[13, 14], [50, 50], [70, 10]], [[10, 10], [50, 50], [40, 10]], [True, True, True])
    np.testing.assert_allclose(errors, [5, 0, 30])
    scores = score_pair(errors, box_length(Box(0, 0, 50, 100)))
    assert scores.pck == pytest.approx((1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3))
    assert scores.mpck == pytest.approx((1 / 3 + 4 * 2 / 3) / 5)
    assert scores.nme == pytest.approx((0.05 + 0 + 0.3) / 3)
    assert scores.epe == pytest.approx(35 / 3)
    # Thresholds 0, .05 … .95: at 0 none, at .05 one of three (strictly less), .1 to .3 two, .35 to .95 all three.
    assert scores.auc == pytest.approx((0 + 1 / 3 + 5 * 2 / 3 + 13 * 1) / 20)
    assert scores.unlocated == 0
    assert scores.keypoints == 3


def test_a_perfect_pair_has_an_auc_just_below_one_as_in_mmpose():
    # PCK at threshold 0 is 0 even for no error at all: 19 of 20 thresholds count.
    assert score_pair([0.0, 0.0], 10).auc == pytest.approx(0.95)


def test_what_is_not_located_is_wrong_everywhere_and_has_no_distance():
    errors = pixel_errors([[0, 0], [1, 0]], [[0, 0], [0, 0]], [False, True])
    assert list(errors) == [math.inf, 1]
    scores = score_pair(errors, 10)
    assert scores.pck == (0.0, 0.0, 0.5, 0.5, 0.5)
    assert (scores.nme, scores.epe, scores.unlocated) == (0.1, 1.0, 0.5)
    nothing = score_pair([math.inf], 10)
    assert math.isnan(nothing.nme) and math.isnan(nothing.epe)
    assert nothing.pck == (0.0,) * 5


def test_the_mean_counts_every_pair_the_same_however_many_keypoints_it_has():
    mean = mean_scores([score_pair([0.0], 10), score_pair([9.0] * 4, 10)])
    assert mean.pck == (0.5,) * 5
    assert mean.nme == pytest.approx(0.45)
    assert (mean.pairs, mean.keypoints) == (2, 5)


def test_pairs_without_any_distance_are_left_out_of_its_mean_only():
    mean = mean_scores([score_pair([math.inf], 10), score_pair([1.0], 10)])
    assert mean.nme == pytest.approx(0.1)
    assert mean.pck[-1] == 0.5


def test_the_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        mean_scores([])
