"""Loops of callers, and the arithmetic of what becomes of their calls, on cases computed by hand."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks.harness.arrivals import Call, closed_loop, open_loop, outcome, poisson_arrivals
from service.telemetry.performance import Percentiles


def call(due: float, done: float, status: str = "OK", sent: float | None = None) -> Call:
    return Call(due, due if sent is None else sent, done, status)


def test_percentiles_are_latencies_that_were_measured() -> None:
    found = outcome([call(0, latency / 100) for latency in range(1, 101)]).answered
    assert found == Percentiles(100, 0.50, 0.95, 0.99)


def test_a_latency_counts_from_the_moment_at_which_the_call_was_due() -> None:
    late = call(due=10.0, sent=12.0, done=12.5)
    assert late.latency == 2.5
    found = outcome([late])
    assert found.answered.p50 == 2.5
    assert found.late_sending == 2.0


def test_goodput_counts_answers_that_came_within_the_limit_and_within_the_run() -> None:
    calls = [
        call(0.0, 0.1),  # in time
        call(0.5, 0.9),  # in time
        call(1.0, 1.9),  # answered, too late to be of use
        call(1.5, 1.6, "RESOURCE_EXHAUSTED"),
        call(1.9, 2.2),  # in time, after the run
    ]
    found = outcome(calls, limit=0.5, seconds=2.0)
    assert found.goodput == 2 / 2.0
    assert found.throughput == 3 / 2.0
    assert found.statuses == {"OK": 4, "RESOURCE_EXHAUSTED": 1}
    assert found.refused == Percentiles(1, *[pytest.approx(0.1)] * 3)
    assert found.offered == pytest.approx(4 / 1.9)


def test_without_a_length_rates_run_to_the_last_answer() -> None:
    found = outcome([call(0.0, 1.0), call(1.0, 4.0)])
    assert found.throughput == found.goodput == 2 / 4.0


def test_a_run_without_calls_has_no_outcome() -> None:
    with pytest.raises(ValueError, match="no calls"):
        outcome([])


class StallingServer:
    """Answers at once, but for one stall in which it answers nobody."""

    def __init__(self, stall_after: int, seconds: float) -> None:
        self.asked = 0
        self._stall_after, self._seconds = stall_after, seconds
        self._free = asyncio.Event()
        self._free.set()

    async def ask(self, number: int) -> str:
        self.asked += 1
        if self.asked == self._stall_after:
            self._free.clear()
            await asyncio.sleep(self._seconds)
            self._free.set()
        await self._free.wait()
        await asyncio.sleep(0.001)
        return "OK"


async def test_an_open_loop_sees_a_stall_in_every_call_that_it_delays_and_a_closed_loop_in_one() -> None:
    stall, count = 0.5, 100
    due = [0.01 * number for number in range(count)]  # one second: half of them fall into the stall
    calls = await open_loop(StallingServer(10, stall).ask, due)
    assert len(calls) == count
    delayed = [found for found in calls if found.latency > stall / 10]
    assert len(delayed) >= 0.3 * count
    closed = await closed_loop(StallingServer(10, stall).ask, 1, 1.0)
    assert sum(found.latency > stall / 10 for found in closed) < 0.2 * len(closed)


async def test_a_generator_that_is_held_up_does_not_hide_what_the_calls_waited() -> None:
    import time

    async def ask(number: int) -> str:
        if number == 0:
            time.sleep(0.3)  # noqa: ASYNC251 (that is the point: nothing can be sent meanwhile)
        return "OK"

    calls = await open_loop(ask, [0.0, 0.05, 0.1])
    by_due = sorted(calls, key=lambda one: one.due)
    assert by_due[1].latency >= 0.24
    assert by_due[2].latency >= 0.19


async def test_a_closed_loop_never_has_more_calls_under_way_than_callers() -> None:
    under_way = most = 0

    async def ask(number: int) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        return "OK"

    calls = await closed_loop(ask, 3, 0.1)
    assert most == 3
    assert len(calls) >= 3


def test_arrivals_are_independent_and_as_many_as_the_rate_says() -> None:
    moments = poisson_arrivals(50.0, 200.0)
    gaps = np.diff(moments)
    assert len(moments) == pytest.approx(10_000, rel=0.05)
    assert 0 <= moments[0] <= moments[-1] < 200
    # Exponential gaps: their spread equals their mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert poisson_arrivals(50.0, 200.0) == moments
