"""A cache bounded by bytes that computes no value twice at the same time."""

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
    """Cache statistics.

    Attributes:
        hits: lookups answered from the cache.
        misses: lookups that started a computation.
        shared: lookups that joined a computation under way.
        evictions: entries removed to make room.
        entries: entries held now.
        bytes: size of the entries.
    """

    hits: int = 0
    misses: int = 0
    shared: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0


@dataclass(slots=True, eq=False)
class _Flight(Generic[Value]):
    """A running computation, and how many callers wait for it."""

    task: asyncio.Task[Value]
    waiters: int = 0


class SingleFlightCache(Generic[Key, Value]):
    """Keeps the most recently used values within a number of bytes; for use within one event loop.

    Callers that ask for the same missing key at the same time share one computation. Entries may belong to a group,
    such as all that was computed from one support, which is dropped as a whole.
    """

    def __init__(
        self, max_bytes: int, size: Callable[[Value], int], group: Callable[[Key], Hashable] = lambda key: key
    ) -> None:
        """Creates an empty cache.

        Args:
            max_bytes: most bytes of all values together; 0 keeps nothing, but computations are still shared.
            size: bytes of a value.
            group: the group of a key; by default each key is its own.
        """
        self._max_bytes = max_bytes
        self._size = size
        self._group = group
        self._groups: dict[Hashable, set[Key]] = {}
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._flights: dict[Key, _Flight[Value]] = {}
        self._statistics = CacheStatistics()

    @property
    def statistics(self) -> CacheStatistics:
        """A snapshot of the counts."""
        return replace(self._statistics)

    def __contains__(self, key: Key) -> bool:
        """Whether a value is cached; does not count as a use."""
        return key in self._values

    async def get(
        self, key: Key, compute: Callable[[], Awaitable[Value]], deadline: float | None = None
    ) -> tuple[Value, bool]:
        """Looks a value up, or computes it.

        Args:
            key: of the value.
            compute: computes the value; called at most once, in a task that goes on without the caller as long as
                another one waits. Its error reaches all that wait, and is not cached.
            deadline: event loop time until which to wait.

        Returns:
            The value, and whether it was cached.

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
                # The computation had the deadline of the caller that started it. Callers that joined it and still have
                # time start it again.
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
        self._groups.setdefault(self._group(key), set()).add(key)
        # Retrieved here: asyncio would log an error that came after the last caller had left.
        flight.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return flight

    async def _finished(self, key: Key, flight: _Flight[Value], remaining: float | None) -> bool:
        """Waits at most `remaining` seconds for a computation, and cancels it when nobody waits for it any more."""
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
            self._leave_group(key)

    def _store(self, key: Key, value: Value) -> None:
        size = self._size(value)
        if size > self._max_bytes:
            return
        self._values[key] = value
        self._groups.setdefault(self._group(key), set()).add(key)
        self._statistics.bytes += size
        while self._statistics.bytes > self._max_bytes:
            evicted, oldest = self._values.popitem(last=False)
            self._leave_group(evicted)
            self._statistics.bytes -= self._size(oldest)
            self._statistics.evictions += 1
        self._statistics.entries = len(self._values)

    def known(self) -> list[Key]:
        """Keys of the cached values, and of those being computed."""
        return [*self._values, *(key for key in self._flights if key not in self._values)]

    def invalidate(self, group: Hashable) -> int:
        """Drops the values of a group, and returns how many. Takes time in proportion to the group, not the cache.

        Running computations finish for those who wait for them, but their values are not cached, and no caller joins
        them any more.
        """
        dropped = 0
        for key in self._groups.pop(group, ()):
            if key in self._values:
                self._statistics.bytes -= self._size(self._values.pop(key))
                dropped += 1
            self._flights.pop(key, None)
        self._statistics.entries = len(self._values)
        return dropped

    def _leave_group(self, key: Key) -> None:
        """Takes a key out of its group unless it is still cached or computed."""
        if key in self._values or key in self._flights:
            return
        group = self._group(key)
        members = self._groups.get(group)
        if members is not None:
            members.discard(key)
            if not members:
                del self._groups[group]
