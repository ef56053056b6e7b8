"""How much may be under way at a time, counted in rows: first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import TOO_LATE, DeadlineError


class Reservations:
    """Rows that may be under way at a time; for use within one event loop."""

    def __init__(self, rows: int) -> None:
        """Starts with all `rows` free."""
        self._all = self._free = rows
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> float:
        """What is waited for, in units of the whole."""
        return sum(rows for rows, _ in self._waiting) / self._all

    @asynccontextmanager
    async def reserved(self, rows: int, latest: float | None = None) -> AsyncIterator[None]:
        """Holds rows while the block runs; more than there are count as all.

        Args:
            rows: how many.
            latest: event loop time until which to wait for them.

        Raises:
            DeadlineError: they did not come free by then.
        """
        rows = min(rows, self._all)
        await self._take(rows, latest)
        try:
            yield
        finally:
            self._give_back(rows)

    async def _take(self, rows: int, latest: float | None) -> None:
        if not self._waiting and rows <= self._free:
            self._free -= rows
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, turn))
        try:
            async with asyncio.timeout_at(latest):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # Its turn had come when it left.
                self._give_back(rows)
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._wake()
            if isinstance(error, TimeoutError):
                raise DeadlineError(TOO_LATE) from None
            raise

    def _give_back(self, rows: int) -> None:
        self._free += rows
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            rows, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= rows
                turn.set_result(None)
