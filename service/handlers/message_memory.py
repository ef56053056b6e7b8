"""Memory of request messages: what calls hold is counted before it is read."""

from __future__ import annotations

import asyncio
from collections import deque

UNREAD_SECONDS = 5.0
"""Seconds after which a call whose message has not arrived stops counting: a slow sender must not keep others out."""


class MessageMemory:
    """Bytes of request messages that a server holds at a time; for use within one event loop.

    A call counts as one of the largest messages until its own has arrived, and as its true size from then on.
    Calls beyond the limit wait before their message is read, so that HTTP/2 flow control holds their senders back.
    """

    def __init__(self, max_bytes: int, max_message_bytes: int) -> None:
        """Starts empty.

        Args:
            max_bytes: most bytes held at a time.
            max_message_bytes: largest message.
        """
        self._largest = max_message_bytes
        self._free = max(max_bytes, max_message_bytes)
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def admit(self) -> HeldMessage:
        """Waits, in the order of arrival, until there is room for a message of the largest size."""
        if self._waiting or self._free < self._largest:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.give_back(self._largest)
                raise
        else:
            self._free -= self._largest
        return HeldMessage(self, self._largest)

    def give_back(self, size: int) -> None:
        """Frees `size` bytes."""
        self._free += size
        while self._waiting and self._free >= self._largest:
            turn = self._waiting.popleft()
            if not turn.done():
                self._free -= self._largest
                turn.set_result(None)


class HeldMessage:
    """What one call holds. It ends with `release`, or with the call that refers to it."""

    def __init__(self, memory: MessageMemory, size: int) -> None:
        self._memory = memory
        self._size = size
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(UNREAD_SECONDS, self._shrink, 0)

    def arrived(self, size: int) -> None:
        """The message has arrived, with `size` bytes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._shrink(size)

    def release(self) -> None:
        """The message is not needed any more."""
        self.arrived(0)

    def _shrink(self, size: int) -> None:
        freed, self._size = self._size - size, size
        if freed:
            self._memory.give_back(freed)

    def __del__(self) -> None:
        if self._size:
            self._memory.give_back(self._size)
