"""A server under load: `capeserve bench load`.

Closed loops over numbers of callers, with one support and with many; open loops over rates; and an overload of three
times the server's capacity. All calls go over gRPC to a server in its own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import grpc

from benchmarks.engine.measurement import Workload as EngineWorkload
from benchmarks.engine.measurement import open_engine, seconds_of
from benchmarks.harness.arrivals import OK, Ask, Call, Outcome, closed_loop, open_loop, outcome, poisson_arrivals
from benchmarks.harness.calls import METHOD, OPTIONS, register, warm_request
from benchmarks.harness.serving import Batches, Serve, Served, read_batches
from benchmarks.harness.workloads import workload
from cape.manifest import read_manifest

FULL_BATCH = 16
"""Callers of the closed loop that measures capacity."""

OVERLOAD = 3.0
"""Offered rate of the overload, as a multiple of the capacity."""

PATIENCE = 3.0
"""gRPC deadline of overload calls, as a multiple of the p99 latency at capacity."""

NO_DEADLINE = 60.0
"""Deadline of calls without one, in seconds, so that a benchmark always ends."""

SUPPORTS = 32
"""Registered supports in the runs with many."""


Kind = Literal["closed", "open", "overload"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        callers: of the closed loops.
        rates: of the open loops, as fractions of the capacity.
        seconds: length of each run.
        keypoints: K of the supports.
    """

    callers: Sequence[int] = (1, 2, 4, 8, 16, 32)
    rates: Sequence[float] = (0.25, 0.5, 0.75, 0.9, 1.0)
    seconds: float = 15.0
    keypoints: int = 17


QUICK = Plan(callers=(1, 4, 16), rates=(0.5, 0.9), seconds=3.0)


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        kind: of loop; an overload is an open loop whose calls have a deadline.
        level: number of callers of a closed loop; else mean calls per second.
        supports: number of supports, used in turn.
        outcome: of its calls.
        batches: batch items per engine run, by component.
        limit: seconds within which an answer counts as goodput; None for no limit.
    """

    kind: Kind
    level: float
    supports: int
    outcome: Outcome
    batches: dict[str, Batches]
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Results of a server under load so far.

    Attributes:
        system, engine: the system, and the engine that ran it.
        raw: queries per second of the engine alone, by batch size, measured next to `full`.
        runs: in order.
    """

    system: str
    engine: str
    raw: dict[int, float]
    runs: tuple[Run, ...]

    @property
    def full(self) -> Run | None:
        """The closed loop whose throughput is the capacity."""
        return next((run for run in self.runs if _fills_batches(run)), None)

    @property
    def overload(self) -> Run | None:
        """The overload run."""
        return next((run for run in self.runs if run.kind == "overload"), None)

    @property
    def beside_overload(self) -> tuple[Run, ...]:
        """Closed loops like `full`, right before and after the overload, since a machine's speed drifts."""
        place = next((index for index, run in enumerate(self.runs) if run.kind == "overload"), len(self.runs))
        return tuple(run for run in self.runs[max(0, place - 1) : place + 2] if _fills_batches(run))


def _fills_batches(run: Run) -> bool:
    return (run.kind, run.level, run.supports) == ("closed", FULL_BATCH, 1)


def measure_load(
    repository: Path, serve: Serve, plan: Plan, settings: Mapping[str, object], step: Callable[[Report], None]
) -> Report:
    """Measures a repository's first system.

    Args:
        repository: exported.
        serve: starts the server.
        plan: what to measure.
        settings: of the server; its providers also run the engine alone.
        step: called with the report so far after every run.
    """
    manifest = read_manifest(repository)
    engine = open_engine(repository, manifest, settings)
    work = EngineWorkload(engine, manifest, next(iter(manifest.systems)), plan.keypoints)
    with contextlib.closing(engine), serve(repository, settings) as served:
        return asyncio.run(_LoadTest(served, work, engine.description, plan, step).run())


def raw_throughput(work: EngineWorkload, batches: Sequence[int], seconds: float) -> dict[int, float]:
    """Warm queries per second of the engine alone, by batch size: medians over `seconds` each."""
    found = {}
    for batch in batches:
        run = functools.partial(work.warm, batch)
        (first,) = seconds_of(run, 1, 1)
        found[batch] = batch / median(seconds_of(run, max(3, min(1000, int(seconds / first))), 0))
    return found


def counted_seconds(kind: Kind, calls: Sequence[Call], seconds: float) -> float | None:
    """Length of the window in which answers count, in seconds.

    The window ends with a batch, since one batch may take a good part of the run: at the last answer of a closed loop,
    at the last answer within `seconds` of an overload, after which the server drains.
    """
    if kind == "closed":
        return None
    if kind == "open":
        return seconds
    first = min(call.due for call in calls)
    return max(
        (call.done - first for call in calls if call.status == OK and call.done - first <= seconds), default=seconds
    )


class _LoadTest:
    """All runs against one server."""

    def __init__(
        self, served: Served, work: EngineWorkload, engine: str, plan: Plan, step: Callable[[Report], None]
    ) -> None:
        self._served, self._work, self._engine, self._plan, self._step = served, work, engine, plan, step
        self._runs: list[Run] = []
        self._raw: dict[int, list[float]] = {}

    async def run(self) -> Report:
        plan = self._plan
        requests = await asyncio.to_thread(self._requests)
        one = requests[:1]
        async with grpc.aio.insecure_channel(self._served.target, OPTIONS) as channel:
            self._call: Any = channel.unary_unary(METHOD)
            # Encode every support and meet every batch size before anything counts.
            ask = self._ask(requests, None)
            await asyncio.gather(*(ask(number) for number in range(len(requests))))
            await closed_loop(ask, FULL_BATCH, plan.seconds / 3)
            for callers in plan.callers:
                # Before and after, so that a drift of the machine's speed does not decide the ratio.
                if callers == FULL_BATCH:
                    self._measure_raw()
                await self._closed(callers, one)
                if callers == FULL_BATCH:
                    self._measure_raw()
            await self._closed(FULL_BATCH, requests)
            full = self._report().full
            if full is None:
                return self._report()
            capacity, limit = full.outcome.throughput, PATIENCE * full.outcome.answered.p99
            for share in plan.rates:
                await self._open("open", share * capacity, one, limit, None)
            await self._closed(FULL_BATCH, one)
            await self._open("overload", OVERLOAD * capacity, one, limit, limit)
            await self._closed(FULL_BATCH, one)
        return self._report()

    def _requests(self) -> list[bytes]:
        work = workload(keypoints=self._plan.keypoints)
        names = register(self._served.target, [work.support, *(work.unseen(number) for number in range(1, SUPPORTS))])
        return [warm_request(work, name) for name in names]

    def _measure_raw(self) -> None:
        measured = raw_throughput(self._work, (1, 4, FULL_BATCH), self._plan.seconds / 6)
        for batch, rate in measured.items():
            self._raw.setdefault(batch, []).append(rate)

    async def _closed(self, callers: int, requests: Sequence[bytes]) -> None:
        ask = self._ask(requests, None)
        await self._measure("closed", callers, len(requests), closed_loop(ask, callers, self._plan.seconds), None)

    async def _open(
        self, kind: Kind, rate: float, requests: Sequence[bytes], limit: float, deadline: float | None
    ) -> None:
        due = poisson_arrivals(rate, self._plan.seconds)
        await self._measure(kind, rate, len(requests), open_loop(self._ask(requests, deadline), due), limit)

    async def _measure(
        self, kind: Kind, level: float, supports: int, calls: Awaitable[list[Call]], limit: float | None
    ) -> None:
        before = await asyncio.to_thread(read_batches, self._served)
        made = await calls
        after = await asyncio.to_thread(read_batches, self._served)
        batches = {name: count.since(before.get(name, Batches(0, 0))) for name, count in after.items()}
        if made:
            found = outcome(made, limit, counted_seconds(kind, made, self._plan.seconds))
            self._runs.append(Run(kind, level, supports, found, batches, limit))
            self._step(self._report())

    def _ask(self, requests: Sequence[bytes], deadline: float | None) -> Ask:
        """Calls that use the supports in turn, with a deadline in seconds."""
        turns = itertools.cycle(requests)

        async def ask(number: int) -> str:
            try:
                await self._call(next(turns), timeout=deadline or NO_DEADLINE)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return OK

        return ask

    def _report(self) -> Report:
        return Report(
            self._work.system,
            self._engine,
            {size: fmean(rates) for size, rates in self._raw.items()},
            tuple(self._runs),
        )
