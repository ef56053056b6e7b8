"""Rows that wait for the engine: one batch item each, in groups that can share a batch."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt

from service.engines.base import BatchResult

REMEMBERED_RUNS = 32
"""Engine runs per component from which run times are judged."""

ENOUGH_RUNS = 3
"""Runs below which nothing is concluded: the first ones allocate memory and are slow."""

STALE_AFTER = 10.0
"""Seconds after which run times say nothing any more. A few slow runs could otherwise turn every caller away
for good, as a queue that refuses everybody never measures again."""


@dataclass(eq=False)
class BatchItem:
    """One batch item, and the caller that waits for it.

    Attributes:
        number: place in the order of arrival.
        component: what is to run on it.
        inputs: arrays by input name, without batch axis.
        outputs: names of the wanted outputs.
        deadline: event loop time by which the result is needed.
        submitted: event loop time of its arrival.
        future: where the result or the error goes.
        timer: what fails it when its time is up.
    """

    number: int
    component: str
    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: tuple[str, ...]
    deadline: float | None
    submitted: float
    future: asyncio.Future[BatchResult]
    timer: asyncio.TimerHandle | None = None

    @cached_property
    def batch_key(self) -> Hashable:
        """What rows must have in common to share a batch: wanted outputs, and shapes and types of inputs."""
        return self.outputs, *((name, array.shape, array.dtype) for name, array in sorted(self.inputs.items()))

    def fail(self, error: Exception) -> None:
        """Gives the caller an error, unless it has left or has its answer."""
        if not self.future.done():
            self.future.set_exception(error)


class RunTimes:
    """How long runs of something have taken lately, by their size in rows.

    Args:
        uneven: rows differ much in what they cost, so that the quickest run alone says how long one takes at least.
    """

    def __init__(self, *, uneven: bool = False) -> None:
        self._uneven = uneven
        self._runs: deque[tuple[int, float]] = deque(maxlen=REMEMBERED_RUNS)
        self._last_run = 0.0

    def measured(self, rows: int, seconds: float, now: float) -> None:
        """Remembers that a run of `rows` rows took `seconds`."""
        self._runs.append((rows, seconds))
        self._last_run = now

    @property
    def usual_rows(self) -> int:
        """Rows of recent runs on average, rounded up; 1 where there has been none."""
        return -(-sum(rows for rows, _ in self._runs) // len(self._runs)) if self._runs else 1

    @property
    def seconds_a_row(self) -> float:
        """At the pace of recent runs; 0 where there has been none."""
        rows = sum(rows for rows, _ in self._runs)
        return sum(seconds for _, seconds in self._runs) / rows if rows else 0.0

    def run_time(self, rows: int, now: float) -> float:
        """Seconds that a run of so many rows takes, judged by recent runs; rather too few than too many.

        That is what the largest runs of no more rows took, or a larger run's share: a run takes at least as long as a
        smaller one, and no longer for each row. 0 while there is too little to judge by.
        """
        if len(self._runs) < ENOUGH_RUNS or now - self._last_run > STALE_AFTER:
            return 0.0
        if self._uneven:
            return min(seconds * min(1.0, rows / size) for size, seconds in self._runs)
        known = max((size for size, _ in self._runs if size <= rows), default=0)
        smaller = [seconds for size, seconds in self._runs if size == known]
        share = min((seconds * rows / size for size, seconds in self._runs if size > rows), default=0.0)
        return max(sum(smaller) / len(smaller) if smaller else 0.0, share)


class ComponentQueue:
    """The waiting rows of one component, and how fast the engine has been with it.

    Attributes:
        rows: how many wait.
    """

    def __init__(self, max_batch_size: int, *, uneven: bool = False) -> None:
        """Creates an empty queue.

        Args:
            max_batch_size: most rows of a batch.
            uneven: see `RunTimes`.
        """
        self.rows = 0
        self._times = RunTimes(uneven=uneven)
        self._max_batch_size = max_batch_size
        self._groups: dict[Hashable, OrderedDict[int, BatchItem]] = {}

    def __iter__(self) -> Iterator[BatchItem]:
        """Iterates over a copy, so that rows may be taken out on the way."""
        return iter([row for group in self._groups.values() for row in group.values()])

    def push(self, row: BatchItem) -> None:
        """Adds a row that has arrived after all others."""
        self._groups.setdefault(row.batch_key, OrderedDict())[row.number] = row
        self.rows += 1

    def remove(self, row: BatchItem) -> bool:
        """Takes a row out; False if it does not wait here any more."""
        group = self._groups.get(row.batch_key)
        if group is None or group.pop(row.number, None) is None:
            return False
        self._shrunk(group, row.batch_key, 1)
        return True

    def take(self) -> list[BatchItem]:
        """Takes the next batch out: the oldest row, and the oldest of those that can share its batch."""
        batch_key, group = min(self._groups.items(), key=lambda item: next(iter(item[1])))
        batch = [group.popitem(last=False)[1] for _ in range(min(len(group), self._max_batch_size))]
        self._shrunk(group, batch_key, len(batch))
        return batch

    def _shrunk(self, group: OrderedDict[int, BatchItem], batch_key: Hashable, rows: int) -> None:
        self.rows -= rows
        if not group:
            del self._groups[batch_key]

    def measured(self, rows: int, seconds: float, now: float) -> None:
        """Remembers that a batch of `rows` rows took `seconds`."""
        self._times.measured(rows, seconds, now)

    @property
    def full_batch(self) -> int:
        """Rows of the largest batch."""
        return self._max_batch_size

    @property
    def usual_batch(self) -> int:
        """Rows of recent batches on average, rounded up; 1 where there has been none."""
        return self._times.usual_rows

    def run_time(self, rows: int, now: float) -> float:
        """Seconds that a batch of so many rows takes; see `RunTimes.run_time`."""
        return self._times.run_time(rows, now)

    def serving_time(self, rows: int, now: float) -> float:
        """Seconds of the engine's time that so many rows take, in batches as large as may be."""
        full, rest = divmod(rows, self._max_batch_size)
        return full * self.run_time(self._max_batch_size, now) + (self.run_time(rest, now) if rest else 0.0)

    def time_to_empty(self) -> float:
        """Seconds of the engine's time that the waiting rows need, at the pace of recent runs."""
        return self.rows * self._times.seconds_a_row
