"""From pairs to scores with an estimator whose mistakes are known."""

from __future__ import annotations

import math

import pytest

from cape.data.pairs import draw_pairs
from cape.evaluation.configuration import EvaluationConfiguration
from cape.evaluation.evaluation import NothingScoredError, evaluate
from cape.evaluation.kept import Kept
from cape.evaluation.pictures import prediction_pictures
from cape.evaluation.report import document, markdown, notes, tables
from cape.evaluation.run import run_pairs
from tests.cape.evaluation.conftest import Offset, Squares


def configuration(**changes: object) -> EvaluationConfiguration:
    values = {"target": "here", "data": {"kind": "synthetic"}, "episodes": 2, "queries": 3}
    return EvaluationConfiguration.model_validate(values | changes)


def test_known_mistakes_give_known_scores(squares):
    # Errors of 0, .07, .12 and .3 of the box, exactly between thresholds.
    found = evaluate(squares, Offset([0.0, 0.07, 0.12, 0.3]), configuration())
    assert found.overall.pairs == 12
    assert found.overall.pck == pytest.approx((1 / 4, 2 / 4, 3 / 4, 3 / 4, 3 / 4))
    assert found.overall.mpck == pytest.approx(0.6)
    assert found.overall.nme == pytest.approx((0.07 + 0.12 + 0.3) / 4, abs=1e-6)
    assert list(found.categories) == ["red square", "blue square"]
    assert list(found.super_categories) == ["squares"]
    assert found.super_categories["squares"] == found.overall
    assert found.calibration.wrong == pytest.approx(1 / 4)


def test_only_keypoints_visible_in_query_and_every_support_are_scored():
    # Keypoint 3 is far off; object 0 hides it. Every pair of the three objects hides it only where 0 takes part.
    squares = Squares(objects=3, hidden={0: [3]})
    run = run_pairs(squares, draw_pairs(squares, shots=2, queries=1), Offset([0, 0, 0, 0.9]))
    red = [result for result in run.results if result.category == 0]
    assert all(0 in (*result.supports, result.query) for result in red)
    assert {result.scores.pck for result in red} == {(1.0,) * 5}
    blue = [result for result in run.results if result.category == 1]
    assert {result.scores.pck for result in blue} == {(0.75,) * 5}


def test_a_support_is_encoded_once_an_episode(squares):
    estimator = Offset([0, 0, 0, 0])
    evaluate(squares, estimator, configuration())
    assert len(estimator.supports) == 4
    assert len(estimator.queries) == 12
    assert all(len(support.examples) == 1 for support in estimator.supports)


def test_several_shots_are_all_shown(squares):
    estimator = Offset([0, 0, 0, 0])
    evaluate(squares, estimator, configuration(shots=2, queries=2))
    assert {len(support.examples) for support in estimator.supports} == {2}


def test_pairs_without_a_common_keypoint_are_left_out_and_counted():
    squares = Squares(objects=2, hidden={0: [0, 1], 1: [2, 3]})
    estimator = Offset([0, 0, 0, 0])
    found = evaluate(squares, estimator, configuration(queries=1))
    assert found.run.unscored == 2
    assert set(found.categories) == {"blue square"}
    assert len(estimator.supports) == 2  # nobody is asked what cannot be scored
    assert any("2 pairs have no keypoint" in note for note in notes(found))


def test_nothing_to_score_is_an_error():
    hidden = {number + 1000 * category: range(4) for number in range(2) for category in range(2)}
    with pytest.raises(NothingScoredError, match="squares: no keypoint is visible"):
        evaluate(Squares(objects=2, hidden=hidden), Offset([0, 0, 0, 0]), configuration(queries=1))


def test_variations_use_the_same_pairs_and_say_why_one_is_not_measured(squares):
    names = ["misspelt", "no_texts", "no_image"]
    estimator = Offset([0, 0, 0, 0.5], needs=["image"])
    found = evaluate(squares, estimator, configuration(variations=names))
    misspelt, no_texts, no_image = found.variations
    assert misspelt.scores == found.overall
    assert no_texts.scores == found.overall and no_texts.modalities == ("image",)
    assert no_image.scores is None and no_image.reason == "it needs image"
    assert estimator.queries[:12] == estimator.queries[12:24] == estimator.queries[24:36]


def test_a_model_that_reads_no_text_is_not_asked_again_with_other_texts(squares):
    estimator = Offset([0, 0, 0, 0], uses=["image"])
    found = evaluate(squares, estimator, configuration(variations=["paraphrased", "misspelt"]))
    assert [outcome.reason for outcome in found.variations] == ["does not use texts: answers as before"] * 2
    assert len(estimator.queries) == 12


def test_progress_is_told_by_pairs(squares):
    told = []
    evaluate(squares, Offset([0, 0, 0, 0]), configuration(), lambda *report: told.append(report))
    assert told == [("evaluating on squares", done, 12) for done in (0, 3, 6, 9, 12)]


def test_a_report_has_every_number_and_is_the_same_each_time(squares):
    asked = configuration(variations=["misspelt", "no_image"])
    reports = []
    for _ in range(2):
        found = evaluate(squares, Offset([0, 0.07, 0.12, 0.3], needs=["image"]), asked)
        reports.append((document(found), markdown(found, [("worst 1", "worst_01.png")])))
    assert reports[0] == reports[1]
    numbers, text = reports[0]
    assert numbers["overall"]["pck@0.2"] == 0.75
    assert numbers["categories"]["red square"]["pairs"] == 6
    assert numbers["variations"]["no_image"]["scores"] is None
    assert "| all pairs | 12 | 25.00 | 50.00 | 75.00 | 75.00 | 75.00 | 60.00 |" in text
    assert "| no_image | - | - | - | - | - | it needs image |" in text
    assert "![worst 1](worst_01.png)" in text
    assert {table.title for table in tables(found)} == {"Scores", "Robustness, on the same pairs", "Keypoint scores"}


def test_a_number_that_cannot_be_said_is_null(squares):
    found = evaluate(squares, Offset([0, 0, 0, 0], located=[False] * 4), configuration())
    assert math.isnan(found.overall.nme)
    assert document(found)["overall"]["nme"] is None
    assert document(found)["overall"]["unlocated"] == 1
    assert any("100.00 % of the keypoints were not located" in note for note in notes(found))


def test_the_best_and_the_worst_are_drawn_each_query_once(squares):
    run = run_pairs(squares, draw_pairs(squares, episodes=3, queries=3), Offset([0, 0.07, 0.12, 0.3]))
    drawn = list(prediction_pictures(run.results, squares, 2))
    assert [name for _, name, _ in drawn] == ["best_01.png", "best_02.png", "worst_01.png", "worst_02.png"]
    assert "PCK@0.2 75 %, NME 0.12" in drawn[0][0]
    assert all(picture.ndim == 3 and picture.shape[1] > 1000 for _, _, picture in drawn)
    assert list(prediction_pictures(run.results, squares, 0)) == []


def test_what_is_kept_stays_within_its_bytes():
    kept: Kept[bytes] = Kept(10, len)
    for key in (1, 2, 3):
        kept.put(key, b"1234")
        kept.get(1)
    assert (kept.get(1), kept.get(2), kept.get(3)) == (b"1234", None, b"1234")
    kept.put(4, b"x" * 11)
    assert kept.get(4) is None
    kept.put(3, b"12")
    kept.put(5, b"1234")
    assert kept.get(1) is not None and kept.get(3) == b"12"
