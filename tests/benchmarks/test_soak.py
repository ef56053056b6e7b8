"""The soak's own judgement: it must see what is wrong, or its zero says nothing."""

from __future__ import annotations

import time
from dataclasses import replace

import grpc
import numpy as np
import pytest

from benchmarks.soak import ledger as soak_ledger
from benchmarks.soak.expected_answers import TOLERANCE, ExpectedAnswers, made_up_support
from benchmarks.soak.faulty_server import FAULTS, FaultySession
from benchmarks.soak.ledger import Disturbances, Ledger
from benchmarks.soak.report import document, markdown
from benchmarks.soak.run import Outcome
from benchmarks.soak.traffic import Caller, Place
from cape.client import (
    Box,
    CapeError,
    DeadlineExceededError,
    OverloadedError,
    PoseEstimate,
    PoseInstance,
    ResourceExhaustedError,
    ServerError,
    UnavailableError,
)
from cape.client.answers import Provenance, Timing

SUPPORT = made_up_support(1)
KEYPOINTS = np.full((5, 2), 50, np.float32)


def expected() -> ExpectedAnswers:
    return ExpectedAnswers((SUPPORT,), (b"",), (100,), {(0, 0): KEYPOINTS})


def pose(keypoints: np.ndarray, names: tuple[str, ...] = SUPPORT.names) -> PoseEstimate:
    ones = np.ones(len(keypoints), np.float32)
    instance = PoseInstance(Box(0, 0, 100, 100), names, keypoints, ones, ones > 0)
    provenance = Provenance.__new__(Provenance)
    return PoseEstimate((instance,), provenance, Timing.__new__(Timing))


def test_an_answer_that_is_off_is_a_mistake_and_rounding_is_not() -> None:
    assert expected().mistake(0, 0, pose(KEYPOINTS + 100 * TOLERANCE / 2)) == ""
    assert "off by" in expected().mistake(0, 0, pose(KEYPOINTS + 100 * TOLERANCE * 2))
    assert expected().mistake(0, 0, pose(KEYPOINTS * np.nan))
    assert expected().mistake(0, 0, pose(KEYPOINTS[:-1], SUPPORT.names[:-1]))
    assert expected().mistake(0, 0, pose(KEYPOINTS, made_up_support(2).names))
    assert expected().mistake(0, 0, replace(pose(KEYPOINTS), instances=()))


UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("error", "calm", "disturbed"),
    [
        (UnavailableError("gone", UNAVAILABLE), False, True),
        (UnavailableError("the engine could not run pose_decoder", UNAVAILABLE), True, True),
        (OverloadedError("full", EXHAUSTED, 0.1), True, True),
        (ResourceExhaustedError("full, and no word of when to come back", EXHAUSTED), False, False),
        (DeadlineExceededError("late", grpc.StatusCode.DEADLINE_EXCEEDED), False, True),
        (ServerError("internal error", grpc.StatusCode.INTERNAL), False, False),
    ],
)
def test_a_refusal_is_right_only_when_it_may_come(
    error: CapeError, calm: bool, disturbed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_ledger, "GRACE_SECONDS", 0.0)
    for during, fine in ((False, calm), (True, disturbed)):
        ledger, disturbances = Ledger(), Disturbances()
        caller = Caller(0, [Place("localhost:1", disturbances)], ["supports/a"], expected(), ledger)
        before = time.monotonic()
        with disturbances.now():
            pass
        time.sleep(0.01)
        ledger.count_sent("query")
        caller._judge_refusal("query", 0, before if during else time.monotonic(), error)
        assert ledger.unaccounted == 0
        assert ledger.wrong.total() == (0 if fine else 1)


def test_every_fault_of_the_engine_changes_what_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def run(self, names: object, inputs: object) -> list[np.ndarray]:
            return [np.ones((2, 3), np.float32)]

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert FaultySession(Session(), 0.0).run([], {})[0].shape == (2, 3)
    changed = 0
    for fault in FAULTS:
        try:
            (output,) = fault([np.ones((2, 3), np.float32)])
        except RuntimeError:
            changed += 1
        else:
            changed += output.shape != (2, 3) or not np.isfinite(output).all()
    assert changed == len(FAULTS) - 1, "all but the one that only takes long"


def test_the_report_says_what_was_wrong_and_lost() -> None:
    ledger = Ledger()
    ledger.count_sent("query", 4)
    ledger.count_right("query")
    ledger.count_refused("query", "UNAVAILABLE")
    ledger.count_wrong("query", "off by a mile")
    assert ledger.unaccounted == 1
    ledger.count_lost("query", "never answered")
    about = {"callers": 1, "replicas": 1, "redis": False, "fault_rate": 0.0, "repository": "tiny", "machine": "this"}
    found = document(Outcome(60.0, ledger, {"killed": 1}, 0.5), date="today", command="capeserve soak", **about)
    assert [found[count] for count in ("sent", "right", "refused", "wrong", "lost")] == [4, 1, 1, 1, 1]
    text = markdown(found)
    assert "# Soak: FAILED" in text
    assert "off by a mile" in text
    assert "| query | 4 | 1 | 1 UNAVAILABLE | 1 | 1 |" in text
