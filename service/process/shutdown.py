"""Graceful shutdown: refuse new calls, let running ones finish (drain), then stop.

`service.server` runs the sequence; the call interceptor reports calls here; streams end when `begun` is set.
"""

from __future__ import annotations

import asyncio

from service.errors import UnavailableError

SHUTTING_DOWN = "the server is shutting down"

QUIET_SECONDS = 0.1
"""The server stops once no call has arrived for this long."""

MAX_QUIET_WAIT = 2.0
"""Longest wait for such a pause, in seconds: some callers never pause."""


class Shutdown:
    """Counts running calls and drains them; for use within one event loop.

    Attributes:
        begun: set when the server stops accepting work.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_arrival = 0.0

    def call_arrived(self) -> None:
        """Notes an arriving call, before it is known which method it calls."""
        self._last_arrival = asyncio.get_running_loop().time()

    def call_started(self) -> None:
        """Counts a call that `drain` waits for."""
        self._running += 1
        self._idle.clear()

    def call_ended(self) -> None:
        """Ends a call that `call_started` counted."""
        self._running -= 1
        if not self._running:
            self._idle.set()

    def refuse_if_begun(self) -> None:
        """Refuses a call during shutdown.

        Raises:
            UnavailableError: the server is shutting down.
        """
        if self.begun.is_set():
            raise UnavailableError(SHUTTING_DOWN)

    async def drain(self) -> None:
        """Refuses new calls, then waits until none is running and none has arrived for `QUIET_SECONDS`.

        gRPC's own shutdown cancels calls that have arrived but not been handled yet: their callers would get
        CANCELLED, which clients do not retry, in place of UNAVAILABLE, which they do.
        """
        self.begun.set()
        await self._idle.wait()
        loop = asyncio.get_running_loop()
        latest = loop.time() + MAX_QUIET_WAIT
        while (now := loop.time()) < min(self._last_arrival + QUIET_SECONDS, latest):  # noqa: ASYNC110 (polls a clock)
            await asyncio.sleep(min(self._last_arrival + QUIET_SECONDS, latest) - now)
