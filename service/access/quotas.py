"""What one caller may use: requests per second, calls at a time, bytes of a message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import CallerLimitError

RETRY_CALLS = 0.1
"""Seconds after which a caller with too many calls is told to try again: one of its own must end first."""


class Quota:
    """The limits of one token; for use within one event loop. None stands for no limit."""

    def __init__(
        self,
        *,
        requests_per_second: float | None = None,
        burst: int | None = None,
        max_in_flight: int | None = None,
        max_message_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts unused.

        Args:
            requests_per_second: objects per second: each box of a query counts as one, each other call as one.
            burst: most of them at once after a pause; None allows a second's worth, at least 1.
            max_in_flight: calls and streams at a time.
            max_message_bytes: largest message.
            clock: seconds; one that does not jump.
        """
        self.max_message_bytes = max_message_bytes
        self._rate = requests_per_second
        self._burst = float(burst or max(1, int(requests_per_second or 1)))
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._left = self._burst
        self._updated = clock()
        self._in_flight = 0

    def count_request(self) -> None:
        """Counts a request against the rate.

        Raises:
            CallerLimitError: it comes too early. It is not counted then: who tries again too soon loses nothing.
        """
        if self._rate is None:
            return
        self._refill()
        if self._left < 1:
            wait = (1 - self._left) / self._rate
            raise CallerLimitError("rate", f"more than {self._rate:g} objects per second", wait)
        self._left -= 1

    def charge(self, objects: int) -> None:
        """Counts further objects of a request that was let in. The quota may go into debt, which later requests wait
        for: a request with more objects than `burst` passes, and costs its share of the rate all the same.
        """
        if self._rate is not None:
            self._refill()
            self._left -= objects

    async def wait(self, longest: float) -> None:
        """Waits until the next request is within the rate.

        Raises:
            CallerLimitError: that takes more than `longest` seconds.
        """
        if self._rate is None:
            return
        self._refill()
        seconds = (1 - self._left) / self._rate
        if seconds > longest:
            raise CallerLimitError("rate", f"more than {self._rate:g} objects per second", seconds)
        if seconds > 0:
            await asyncio.sleep(seconds)

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._updated) * self._rate) if self._rate else self._burst
        self._updated = now

    @contextmanager
    def call(self) -> Iterator[None]:
        """Counts a call for as long as the block lasts.

        Raises:
            CallerLimitError: too many run already.
        """
        if self._max_in_flight is not None and self._in_flight >= self._max_in_flight:
            raise CallerLimitError("calls", f"more than {self._max_in_flight} calls at a time", RETRY_CALLS)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
