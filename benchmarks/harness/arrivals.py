"""Callers of a server, in the two ways that exist, and what becomes of their calls.

A closed loop is a number of callers who each wait for their answer before they ask again: when the server stalls, so
do they, and the stall is seen by few calls. An open loop is a crowd that does not know of each other: calls come when
they come, whatever the server does. There a call's latency counts from the moment at which it was due, not from the
moment at which a busy generator got round to sending it; otherwise a stall would hide the calls that it delayed
(coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.telemetry.performance import Percentiles

Ask = Callable[[int], Awaitable[str]]
"""Makes call number n; returns its gRPC status, 'OK' where it was answered. Does not raise."""

OK = "OK"


@dataclass(frozen=True, slots=True)
class Call:
    """What became of one call; times are event loop times, in seconds.

    Attributes:
        due: when it was to be made.
        sent: when it was.
        done: when its answer or refusal was there.
        status: 'OK', or another gRPC status.
    """

    due: float
    sent: float
    done: float
    status: str

    @property
    def latency(self) -> float:
        """Seconds from the moment at which it was due."""
        return self.done - self.due


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the calls of one run.

    Attributes:
        offered: calls per second that were due; 0 for a single one.
        goodput: answered calls per second, those answered within the limit.
        throughput: answered calls per second, however late.
        answered: latency of the answered calls.
        refused: how long the others took to fail.
        statuses: number of calls by status.
        late_sending: 99th percentile of the generator's own delay, in seconds: what it could not keep up with.
    """

    offered: float
    goodput: float
    throughput: float
    answered: Percentiles
    refused: Percentiles
    statuses: dict[str, int]
    late_sending: float


async def closed_loop(ask: Ask, callers: int, seconds: float) -> list[Call]:
    """Callers who each ask again as soon as they are answered.

    Args:
        ask: makes a call.
        callers: how many.
        seconds: time after which none begins another call; those under way are waited for.
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
    """Calls that are made when they are due, however many are unanswered.

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
    """Moments of independent calls, `rate` a second on average, within `seconds` from 0."""
    generator = np.random.default_rng(seed)
    # Enough of them for the unlikeliest case; those after the end are cut off.
    count = int(rate * seconds + 10 * (rate * seconds) ** 0.5 + 10)
    moments = np.cumsum(generator.exponential(1 / rate, count))
    return [float(moment) for moment in moments if moment < seconds]


def outcome(calls: Sequence[Call], limit: float | None = None, seconds: float | None = None) -> Outcome:
    """Sums calls up.

    Args:
        calls: of one run.
        limit: seconds within which an answer is still of use; None: any answer is.
        seconds: length of the run: rates count the answers of that time only, since what is answered afterwards finds
            a server that is running empty. None: to the last answer.

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
