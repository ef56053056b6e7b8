"""Batch items, and how fast the engine runs each component."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from service.engines.base import BatchResult

if TYPE_CHECKING:
    from service.batching.scheduler import Work

REMEMBERED_RUNS = 32
"""Number of engine runs per component that estimates use."""

ENOUGH_RUNS = 3
"""Number of runs needed for an estimate: the first ones allocate memory and are slow."""

SMOOTHING = 0.1
"""Weight of the newest run in the mean of its size."""

STALE_AFTER = 10.0
"""Seconds after which run times are ignored. Otherwise a few slow runs could refuse every caller for ever, because a
queue that refuses everything is never measured again."""


@dataclass(eq=False)
class BatchItem:
    """One batch item, and the request that waits for it.

    Attributes:
        number: position in the order of arrival.
        work: the request that it belongs to.
        component: component to run.
        inputs: arrays by input name, without batch axis.
        outputs: names of the outputs to return.
        deadline: event loop time by which the result is needed.
        submitted: event loop time of its arrival.
        future: receives the result or the error.
        timer: fires when the deadline cannot be met any more.
        waiting: whether it is in a queue.
        charged: engine seconds that its flow was charged in advance.
    """

    number: int
    work: Work
    component: str
    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: tuple[str, ...]
    deadline: float | None
    submitted: float
    future: asyncio.Future[BatchResult]
    timer: asyncio.TimerHandle | None = None
    waiting: bool = False
    charged: float = 0.0

    @cached_property
    def batch_key(self) -> Hashable:
        """Items with equal keys can share a batch: requested outputs, shapes and types of inputs."""
        return self.outputs, *((name, array.shape, array.dtype) for name, array in sorted(self.inputs.items()))

    def fail(self, error: Exception) -> None:
        """Sets an error, unless the caller has left or has a result."""
        if not self.future.done():
            self.future.set_exception(error)


class RunTimes:
    """Duration of recent runs by their number of items.

    Args:
        uneven: items differ much in cost, so only the fastest run bounds a run's time from below.
    """

    def __init__(self, *, uneven: bool = False) -> None:
        self._uneven = uneven
        self._runs: deque[tuple[int, float]] = deque(maxlen=REMEMBERED_RUNS)
        self._last_run = 0.0
        self._by_size: dict[int, float] = {}

    def measured(self, items: int, seconds: float, now: float) -> None:
        """Records that a run of `items` items took `seconds`."""
        self._runs.append((items, seconds))
        self._last_run = now
        self._by_size[items] = seconds + (1 - SMOOTHING) * (self._by_size.get(items, seconds) - seconds)

    def expected(self, items: int) -> float:
        """The most likely seconds of a run of `items` items, in proportion to the nearest measured size; 0 if unknown.

        Sizes below are preferred: a run is assumed to take no less per item than a smaller one.
        """
        if not self._by_size:
            return 0.0
        if items in self._by_size:
            return self._by_size[items]
        smaller = [size for size in self._by_size if size < items]
        nearest = max(smaller) if smaller else min(self._by_size)
        return self._by_size[nearest] * items / nearest

    @property
    def usual_items(self) -> int:
        """Mean size of recent runs, rounded up; 1 before the first run."""
        return -(-sum(items for items, _ in self._runs) // len(self._runs)) if self._runs else 1

    @property
    def seconds_per_item(self) -> float:
        """Mean over recent runs; 0 before the first run."""
        items = sum(items for items, _ in self._runs)
        return sum(seconds for _, seconds in self._runs) / items if items else 0.0

    def run_time(self, items: int, now: float) -> float:
        """Estimates the seconds that a run of `items` items takes, erring on the low side.

        The estimate is the time of the largest runs with no more items, or the share of a larger run: a run takes at
        least as long as a smaller one, and at most as long per item. 0 until there are enough recent runs.
        """
        if len(self._runs) < ENOUGH_RUNS or now - self._last_run > STALE_AFTER:
            return 0.0
        if self._uneven:
            return min(seconds * min(1.0, items / size) for size, seconds in self._runs)
        known = max((size for size, _ in self._runs if size <= items), default=0)
        smaller = [seconds for size, seconds in self._runs if size == known]
        share = min((seconds * items / size for size, seconds in self._runs if size > items), default=0.0)
        return max(sum(smaller) / len(smaller) if smaller else 0.0, share)


class ComponentQueue:
    """Number of waiting items of one component, its largest batch, and its run times.

    Attributes:
        items: number of items that wait.
        full_batch: items of the largest batch.
    """

    def __init__(self, max_batch_size: int, *, uneven: bool = False) -> None:
        """Starts empty.

        Args:
            max_batch_size: items of the largest batch.
            uneven: see `RunTimes`.
        """
        self.items = 0
        self.full_batch = max_batch_size
        self._times = RunTimes(uneven=uneven)

    def measured(self, items: int, seconds: float, now: float) -> None:
        """Records that a batch of `items` items ran for `seconds`."""
        self._times.measured(items, seconds, now)

    @property
    def usual_batch(self) -> int:
        """Mean size of recent batches, rounded up; 1 before the first run."""
        return self._times.usual_items

    @property
    def seconds_per_item(self) -> float:
        """Mean over recent runs; 0 before the first run."""
        return self._times.seconds_per_item

    def expected(self, items: int) -> float:
        """The most likely seconds of a batch of `items` items; see `RunTimes.expected`."""
        return self._times.expected(items)

    def run_time(self, items: int, now: float) -> float:
        """Seconds that a batch of `items` items takes; see `RunTimes.run_time`."""
        return self._times.run_time(items, now)

    def serving_time(self, items: int, now: float) -> float:
        """Seconds that `items` items take in batches as large as possible."""
        full, rest = divmod(items, self.full_batch)
        return full * self.run_time(self.full_batch, now) + (self.run_time(rest, now) if rest else 0.0)

    def time_to_empty(self) -> float:
        """Seconds that the waiting items take at the pace of recent runs."""
        return self.items * self._times.seconds_per_item
