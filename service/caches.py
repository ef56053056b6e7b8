"""A cache bounded by bytes in which no value is computed twice at the same time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from service.errors import DeadlineError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True)
class CacheStatistics:
    """How a cache fares.

    Attributes:
        hits: lookups answered at once.
        misses: lookups that started a computation.
        shared: lookups that joined a computation under way.
        evictions: entries pushed out to make room.
        entries: entries held now.
        bytes: what they take.
    """

    hits: int = 0
    misses: int = 0
    shared: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0


@dataclass(slots=True, eq=False)
class _Flight(Generic[Value]):
    """A computation under way, and how many wait for it."""

    task: asyncio.Task[Value]
    waiters: int = 0


class SingleFlightCache(Generic[Key, Value]):
    """Keeps the most recently used values within a number of bytes; for use within one event loop.

    Callers that ask for the same missing key at the same time share one computation.
    """

    def __init__(self, max_bytes: int, size: Callable[[Value], int]) -> None:
        """Creates an empty cache.

        Args:
            max_bytes: what the values may take together; 0 keeps nothing, computations are still shared.
            size: what a value takes, in bytes.
        """
        self._max_bytes = max_bytes
        self._size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._flights: dict[Key, _Flight[Value]] = {}
        self._statistics = CacheStatistics()

    @property
    def statistics(self) -> CacheStatistics:
        """A snapshot of the counts."""
        return replace(self._statistics)

    def __contains__(self, key: Key) -> bool:
        """Whether a value is there now; does not count as its use."""
        return key in self._values

    async def get(
        self, key: Key, compute: Callable[[], Awaitable[Value]], deadline: float | None = None
    ) -> tuple[Value, bool]:
        """Looks a value up, or computes it.

        Args:
            key: what to look up.
            compute: makes the value; called at most once, in a task that outlives a caller who leaves as long
                as another one waits. Its failure reaches everyone who waits and is not kept.
            deadline: event loop time until which to wait.

        Returns:
            The value, and whether it was there already.

        Raises:
            DeadlineError: the deadline passed.
        """
        loop = asyncio.get_running_loop()
        while True:
            if key in self._values:
                self._values.move_to_end(key)
                self._statistics.hits += 1
                return self._values[key], True
            remaining = None if deadline is None else deadline - loop.time()
            if remaining is not None and remaining <= 0:
                raise DeadlineError("the deadline has passed")
            flight = self._flights.get(key)
            started = flight is None
            if flight is None:
                flight = self._start(key, compute)
            else:
                self._statistics.shared += 1
            if not await self._finished(key, flight, remaining):
                raise DeadlineError("the deadline has passed")
            try:
                return flight.task.result(), False
            except DeadlineError:
                # The computation ran under the deadline of the caller that started it. Whoever joined and
                # still has time starts it again.
                if started:
                    raise

    def _start(self, key: Key, compute: Callable[[], Awaitable[Value]]) -> _Flight[Value]:
        self._statistics.misses += 1

        async def fly() -> Value:
            try:
                value = await compute()
                if self._flights.get(key) is flight:
                    self._store(key, value)
                return value
            finally:
                self._forget(key, flight)

        flight = _Flight(asyncio.get_running_loop().create_task(fly()))
        self._flights[key] = flight
        # Looked at here, lest asyncio logs a failure that came after the last caller had left.
        flight.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return flight

    async def _finished(self, key: Key, flight: _Flight[Value], remaining: float | None) -> bool:
        """Waits at most `remaining` seconds for a computation; calls it off when nobody waits any more."""
        flight.waiters += 1
        try:
            done, _ = await asyncio.wait((flight.task,), timeout=remaining)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.task.done():
                # A computation that is being cancelled must not be joined.
                self._forget(key, flight)
                flight.task.cancel()
        return bool(done)

    def _forget(self, key: Key, flight: _Flight[Value]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _store(self, key: Key, value: Value) -> None:
        size = self._size(value)
        if size > self._max_bytes:
            return
        self._values[key] = value
        self._statistics.bytes += size
        while self._statistics.bytes > self._max_bytes:
            _, oldest = self._values.popitem(last=False)
            self._statistics.bytes -= self._size(oldest)
            self._statistics.evictions += 1
        self._statistics.entries = len(self._values)

    def known(self) -> list[Key]:
        """Keys of the values that are held, and of those being computed."""
        return [*self._values, *(key for key in self._flights if key not in self._values)]

    def invalidate(self, matches: Callable[[Key], bool]) -> int:
        """Drops the values whose key `matches`, and returns how many.

        Computations under way finish for those who wait for them, but are neither kept nor joined any more.
        """
        stale = [key for key in self._values if matches(key)]
        for key in stale:
            self._statistics.bytes -= self._size(self._values.pop(key))
        for key in [key for key in self._flights if matches(key)]:
            del self._flights[key]
        self._statistics.entries = len(self._values)
        return len(stale)
