from __future__ import annotations

import pytest

from cape.training.configuration import ScheduleConfiguration
from cape.training.schedule import Schedule


def test_the_papers_schedule_warms_up_and_steps_down_twice() -> None:
    schedule = Schedule(ScheduleConfiguration(kind="multistep", steps=20000, warmup_steps=1000), 20000)
    assert schedule.factor(0, 0.0) == pytest.approx(0.001)
    assert schedule.factor(499, 0.0) == pytest.approx(0.5)
    assert schedule.factor(1000, 0.0) == 1.0
    assert schedule.factor(15999, 0.0) == 1.0
    assert schedule.factor(16000, 0.0) == pytest.approx(0.1)
    assert schedule.factor(18000, 0.0) == pytest.approx(0.01)
    assert not schedule.finished(19999, 1e9)
    assert schedule.finished(20000, 0.0)


def test_a_cosine_may_follow_the_time() -> None:
    configuration = ScheduleConfiguration(kind="cosine", by="time", max_minutes=2.0, warmup_steps=0, final_factor=0.1)
    schedule = Schedule(configuration, None)
    assert schedule.factor(5, 0.0) == pytest.approx(1.0)
    assert schedule.factor(5, 60.0) == pytest.approx(0.55)
    assert schedule.factor(5, 120.0) == pytest.approx(0.1)
    assert schedule.finished(1, 120.0) and not schedule.finished(10**9, 119.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 5, "epochs": 5}, "steps or epochs, not both"),
        ({"by": "time", "steps": 5}, "by time needs max_minutes"),
        ({}, "by steps needs steps or epochs"),
    ],
)
def test_a_run_needs_an_end(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfiguration.model_validate(values)
