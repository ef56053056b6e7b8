"""Ways to serve one model, side by side: `capeserve bench compare`.

All are started first and then take turns: a few requests each for latency, then a while each for throughput, and again.
A machine that slows down so slows everybody; who would use the processors out of turn is stopped. What they answer is
compared with PyTorch eager.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from benchmarks.compare.contestants import Contestant, Points, Support
from benchmarks.harness.arrivals import OK, closed_loop, outcome
from service.telemetry.performance import Percentiles

REFERENCE = "PyTorch eager"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        rounds: how often everybody has a turn.
        calls: latency calls of a turn, one after the other.
        seconds: of a turn under load; requests that have begun are waited for.
    """

    rounds: int = 3
    calls: int = 7
    seconds: float = 6.0


QUICK = Plan(rounds=1, calls=3, seconds=1.0)


@dataclass(slots=True)
class Result:
    """How a contestant has fared so far.

    Attributes:
        name, support, precision, callers: the contestant's.
        seconds: latency of each call.
        rates: answers per second of each turn under load.
        failures: calls under load that failed, by error.
        largest, mean: distance of its keypoints from the reference's, as a share of the query's box; None before that
            is known.
    """

    name: str
    support: Support
    precision: str
    callers: int
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    largest: float | None = None
    mean: float | None = None

    @property
    def latency(self) -> Percentiles:
        """Of its calls, in seconds."""
        return Percentiles.of(self.seconds)

    @property
    def rate(self) -> float:
        """Median answers per second under load."""
        return float(np.median(self.rates)) if self.rates else 0.0


def measure(
    contestants: Sequence[Contestant],
    plan: Plan,
    queries: int,
    box_side: float,
    step: Callable[[list[Result]], None],
    number: Callable[[], int] | None = None,
) -> list[Result]:
    """Lets everybody have their turns.

    Args:
        contestants: ready to answer.
        plan: how many turns, and how long.
        queries: how many different queries they know.
        box_side: longer side of the query's box, in pixels: the unit of differences.
        step: told the results so far after every turn.
        number: makes support texts that nobody has seen; by default from the time of day.
    """
    unseen = number or itertools.count(time.time_ns()).__next__
    results = [Result(one.name, one.support, one.precision, one.callers) for one in contestants]
    answers = {}
    for index, contestant in enumerate(contestants):
        with contestant.turn():
            answers[index] = [contestant.ask(query, 0) for query in range(queries)]
    compare_answers(results, answers, box_side)
    for _ in range(plan.rounds):
        for contestant, result in zip(contestants, results, strict=True):
            with contestant.turn():
                for call in range(plan.calls):
                    started = time.perf_counter()
                    contestant.ask(call % queries, unseen())
                    result.seconds.append(time.perf_counter() - started)
            step(results)
        for contestant, result in zip(contestants, results, strict=True):
            with contestant.turn():
                under_load(contestant, result, plan.seconds, queries, unseen)
            step(results)
    return results


def compare_answers(results: Sequence[Result], answers: Mapping[int, Sequence[Points]], box_side: float) -> None:
    """Fills in how far everybody's keypoints are from the reference's; nothing where that did not take part."""
    reference = next((index for index, result in enumerate(results) if result.name == REFERENCE), None)
    if reference is None:
        return
    for index, result in enumerate(results):
        distances = np.concatenate(
            [
                np.linalg.norm(ours.astype(np.float64) - theirs, axis=1) / box_side
                for ours, theirs in zip(answers[index], answers[reference], strict=True)
            ]
        )
        result.largest, result.mean = float(distances.max()), float(distances.mean())


def under_load(contestant: Contestant, result: Result, seconds: float, queries: int, unseen: Callable[[], int]) -> None:
    """A turn of as many callers as it takes; every call counts, to the last answer."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(contestant.callers) as pool:

            async def ask(number: int) -> str:
                try:
                    await loop.run_in_executor(pool, contestant.ask, number % queries, unseen())
                except Exception as error:  # of whatever library a contestant is called with
                    return type(error).__name__
                return OK

            found = outcome(await closed_loop(ask, contestant.callers, seconds))
        result.rates.append(found.throughput)
        for status, count in found.statuses.items():
            if status != OK:
                result.failures[status] = result.failures.get(status, 0) + count

    asyncio.run(run())
