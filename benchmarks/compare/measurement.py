"""Measures several servers of one model, interleaved: `capeserve bench compare`.

All candidates are started first and then take turns: a few requests each for latency, then a load run each for
throughput, repeated. A machine that slows down thus slows all of them. Candidates that would use the CPU between their
turns are suspended. Answers are compared with PyTorch eager.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from benchmarks.compare.candidates import Candidate, Points, Support
from benchmarks.harness.arrivals import OK, closed_loop, outcome
from service.telemetry.performance import Percentiles

REFERENCE = "PyTorch eager"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        rounds: turns of each candidate.
        calls: latency calls of a turn, one after the other.
        seconds: of a load run; requests already sent are waited for.
    """

    rounds: int = 3
    calls: int = 7
    seconds: float = 6.0


QUICK = Plan(rounds=1, calls=3, seconds=1.0)


@dataclass(slots=True)
class Result:
    """Results of one candidate so far.

    Attributes:
        name, support, precision, callers: the candidate's.
        seconds: latency of each call.
        rates: answers per second of each load run.
        failures: calls under load that failed, by error.
        largest, mean: distance of its keypoints from the reference's, as a fraction of the query's box; None until
            known.
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
        """Latency of its calls, in seconds."""
        return Percentiles.of(self.seconds)

    @property
    def rate(self) -> float:
        """Median answers per second under load."""
        return float(np.median(self.rates)) if self.rates else 0.0


def measure(
    candidates: Sequence[Candidate],
    plan: Plan,
    queries: int,
    box_side: float,
    step: Callable[[list[Result]], None],
    number: Callable[[], int] | None = None,
) -> list[Result]:
    """Measures the candidates in turns.

    Args:
        candidates: ready to answer.
        plan: how many turns, and how long.
        queries: number of different queries.
        box_side: longer side of the query's box, in pixels: the unit of differences.
        step: called with the results so far after every turn.
        number: a number that makes support texts new; the time of day by default.
    """
    unseen = number or itertools.count(time.time_ns()).__next__
    results = [Result(one.name, one.support, one.precision, one.callers) for one in candidates]
    answers = {}
    for index, candidate in enumerate(candidates):
        with candidate.turn():
            answers[index] = [candidate.ask(query, 0) for query in range(queries)]
    compare_answers(results, answers, box_side)
    for _ in range(plan.rounds):
        for candidate, result in zip(candidates, results, strict=True):
            with candidate.turn():
                for call in range(plan.calls):
                    started = time.perf_counter()
                    candidate.ask(call % queries, unseen())
                    result.seconds.append(time.perf_counter() - started)
            step(results)
        for candidate, result in zip(candidates, results, strict=True):
            with candidate.turn():
                under_load(candidate, result, plan.seconds, queries, unseen)
            step(results)
    return results


def compare_answers(results: Sequence[Result], answers: Mapping[int, Sequence[Points]], box_side: float) -> None:
    """Adds each candidate's distance from the reference; does nothing if the reference did not run."""
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


def under_load(candidate: Candidate, result: Result, seconds: float, queries: int, unseen: Callable[[], int]) -> None:
    """A load run with the candidate's number of callers; counts every call, to the last answer."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(candidate.callers) as pool:

            async def ask(number: int) -> str:
                try:
                    await loop.run_in_executor(pool, candidate.ask, number % queries, unseen())
                except Exception as error:  # of whichever client library
                    return type(error).__name__
                return OK

            found = outcome(await closed_loop(ask, candidate.callers, seconds))
        result.rates.append(found.throughput)
        for status, count in found.statuses.items():
            if status != OK:
                result.failures[status] = result.failures.get(status, 0) + count

    asyncio.run(run())
