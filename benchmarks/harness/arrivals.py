"""Closed-loop and open-loop load on a server, and the outcome of the calls.

In a closed loop each caller waits for its answer before it sends the next call: when the server stalls, so do the
callers, and few calls see the stall. In an open loop calls arrive independently of the server. There, latency counts
from the time at which a call was due, not from the time at which a busy generator sent it; otherwise a stall would
hide the calls that it delayed (coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.telemetry.performance import Percentiles

Ask = Callable[[int], Awaitable[str]]
"""Makes call number n and returns its gRPC status, 'OK' if it was answered. Must not raise."""

OK = "OK"


@dataclass(frozen=True, slots=True)
class Call:
    """One call; times are event loop times, in seconds.

    Attributes:
        due: when it was due.
        sent: when it was sent.
        done: when its answer or error arrived.
        status: 'OK', or another gRPC status.
    """

    due: float
    sent: float
    done: float
    status: str

    @property
    def latency(self) -> float:
        """Seconds since it was due."""
        return self.done - self.due


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of the calls of one run.

    Attributes:
        offered: calls due per second; 0 for a single call.
        goodput: calls per second answered within the limit.
        throughput: calls per second answered at any time.
        answered: latency of the answered calls.
        refused: latency of the failed calls.
        statuses: number of calls by status.
        late_sending: 99th percentile of the generator's own delay, in seconds.
    """

    offered: float
    goodput: float
    throughput: float
    answered: Percentiles
    refused: Percentiles
    statuses: dict[str, int]
    late_sending: float


async def closed_loop(ask: Ask, callers: int, seconds: float) -> list[Call]:
    """Runs a closed loop: each caller sends its next call as soon as it is answered.

    Args:
        ask: makes a call.
        callers: how many.
        seconds: time after which no call is started; calls in flight are waited for.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    calls: list[Call] = []
    number = 0

    async def caller() -> None:
        nonlocal number
        while (started := loop.time()) < until:
            number += 1
            status = await ask(number)
            calls.append(Call(started, started, loop.time(), status))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return calls


async def open_loop(ask: Ask, due: Sequence[float]) -> list[Call]:
    """Runs an open loop: calls are sent when due, however many are unanswered.

    Args:
        ask: makes a call.
        due: seconds from now, ascending; see `poisson_arrivals`.
    """
    loop = asyncio.get_running_loop()
    begin = loop.time()
    calls: list[Call] = []

    async def call(number: int, moment: float) -> None:
        sent = loop.time()
        status = await ask(number)
        calls.append(Call(moment, sent, loop.time(), status))

    async with asyncio.TaskGroup() as group:
        for number, offset in enumerate(due):
            moment = begin + offset
            if (wait := moment - loop.time()) > 0:
                await asyncio.sleep(wait)
            group.create_task(call(number, moment))
    return calls


def poisson_arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Arrival times of a Poisson process: `rate` calls a second on average, between 0 and `seconds`."""
    generator = np.random.default_rng(seed)
    # More than enough draws; those beyond the end are cut off.
    count = int(rate * seconds + 10 * (rate * seconds) ** 0.5 + 10)
    moments = np.cumsum(generator.exponential(1 / rate, count))
    return [float(moment) for moment in moments if moment < seconds]


def outcome(calls: Sequence[Call], limit: float | None = None, seconds: float | None = None) -> Outcome:
    """Summarises the calls of a run.

    Args:
        calls: of one run.
        limit: seconds within which an answer counts as goodput; None for no limit.
        seconds: length of the run. Rates count the answers of that time only, since later ones meet a server that
            is draining. None: until the last answer.

    Raises:
        ValueError: no calls.
    """
    if not calls:
        raise ValueError("no calls: the run was too short for any")
    first, last_due = min(call.due for call in calls), max(call.due for call in calls)
    answered = [call for call in calls if call.status == OK]
    end = max(call.done for call in calls) if seconds is None else first + seconds
    span = max(end - first, 1e-9)
    statuses: dict[str, int] = {}
    for call in calls:
        statuses[call.status] = statuses.get(call.status, 0) + 1
    lateness = np.array([call.sent - call.due for call in calls])
    return Outcome(
        offered=(len(calls) - 1) / (last_due - first) if last_due > first else 0.0,
        goodput=sum(call.done <= end and (limit is None or call.latency <= limit) for call in answered) / span,
        throughput=sum(call.done <= end for call in answered) / span,
        answered=Percentiles.of(call.latency for call in answered),
        refused=Percentiles.of(call.latency for call in calls if call.status != OK),
        statuses=dict(sorted(statuses.items())),
        late_sending=float(np.quantile(lateness, 0.99, method="inverted_cdf")),
    )
