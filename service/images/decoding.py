"""The threads that decode images, and bounds on their time and memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

BYTES_PER_PIXEL = 8
"""Peak memory of decoding: Pillow's own pixels take 4 bytes, ours 3, bands and tables the rest."""


class DecodeMemory:
    """Memory that decoded images may take together. Threads wait for it in the order of their arrival."""

    def __init__(self, max_bytes: int) -> None:
        """Starts with all of `max_bytes` free."""
        self._all = self._free = max_bytes
        self._changed = threading.Condition()
        self._tickets = 0
        self._turn = 0

    def reserve(self, pixels: int) -> int:
        """Waits until the memory of an image of `pixels` pixels is free; a larger one than there is counts as all.

        Returns:
            Bytes to pass to `release`.
        """
        size = min(self._all, pixels * BYTES_PER_PIXEL)
        with self._changed:
            ticket, self._tickets = self._tickets, self._tickets + 1
            self._changed.wait_for(lambda: ticket == self._turn and size <= self._free)
            self._turn += 1
            self._free -= size
            self._changed.notify_all()
        return size

    def release(self, size: int) -> None:
        """Frees reserved bytes."""
        with self._changed:
            self._free += size
            self._changed.notify_all()


class DecodePool(ThreadPoolExecutor):
    """Threads that decode images, and a record of which of them take too long.

    A thread cannot be stopped. While every thread exceeds the limit, nothing can be decoded and only a restart helps.
    """

    def __init__(self, threads: int, max_seconds: float) -> None:
        """Starts idle.

        Args:
            threads: images decoded at a time.
            max_seconds: time limit of one image.
        """
        super().__init__(threads, thread_name_prefix="decode")
        self.max_seconds = max_seconds
        self._size = threads
        self._running: dict[int, float] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `concurrent.futures.Executor.submit`."""

        def timed() -> Any:
            thread = threading.get_ident()
            self._running[thread] = time.monotonic()
            try:
                return fn(*args, **kwargs)
            finally:
                del self._running[thread]

        return super().submit(timed)

    @property
    def slow(self) -> int:
        """Number of threads that exceed the time limit."""
        latest = time.monotonic() - self.max_seconds
        return sum(started < latest for started in list(self._running.values()))

    @property
    def stuck(self) -> bool:
        """Whether every thread exceeds the time limit."""
        return self.slow >= self._size

    def close(self) -> None:
        """Ends the threads, without waiting for those that exceed the time limit."""
        self.shutdown(wait=not self.slow, cancel_futures=True)
