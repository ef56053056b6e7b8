"""Outcome of every request of a soak, and the times at which a server was disturbed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

REMEMBERED = 30
"""Most wrong and lost requests that the report describes."""

GRACE_SECONDS = 3.0
"""Seconds after a disturbance in which a client may still wait between connection attempts."""


class Ledger:
    """Counts requests by kind and outcome. Thread-safe.

    Attributes:
        right: answered correctly.
        refused: refused with a code that was right at that time, by kind and code.
        troubles: descriptions of the first wrong or lost requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent: Counter[str] = Counter()
        self.right: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.wrong: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.troubles: list[str] = []

    def count_sent(self, kind: str, requests: int = 1) -> None:
        """Counts requests that are sent; each must be counted once more with its outcome."""
        with self._lock:
            self.sent[kind] += requests

    def count_right(self, kind: str) -> None:
        """Counts a right answer."""
        with self._lock:
            self.right[kind] += 1

    def count_refused(self, kind: str, code: str, requests: int = 1) -> None:
        """Counts requests refused with the right code."""
        with self._lock:
            self.refused[kind, code] += requests

    def count_wrong(self, kind: str, description: str) -> None:
        """Counts a wrong answer, or a refusal with a wrong code."""
        with self._lock:
            self.wrong[kind] += 1
            self._remember(f"wrong, {kind}: {description}")

    def count_lost(self, kind: str, description: str, requests: int = 1) -> None:
        """Counts requests without an answer, or a confirmed support that is missing."""
        with self._lock:
            self.lost[kind] += requests
            self._remember(f"lost, {kind}: {description}")

    def _remember(self, trouble: str) -> None:
        if len(self.troubles) < REMEMBERED:
            self.troubles.append(trouble[:500])

    @property
    def unaccounted(self) -> int:
        """Requests without an outcome."""
        ends = (self.right, self.refused, self.wrong, self.lost)
        return self.sent.total() - sum(counter.total() for counter in ends)


class Disturbances:
    """Times at which a server was killed, stopped or cut off from its registry and may be unavailable."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[tuple[float, float | None]] = []

    @contextmanager
    def now(self) -> Iterator[None]:
        """Marks a disturbance for the duration of the block and a short while after."""
        started = time.monotonic()
        with self._lock:
            self._times.append((started, None))
            place = len(self._times) - 1
        try:
            yield
        finally:
            with self._lock:
                self._times[place] = (started, time.monotonic() + GRACE_SECONDS)

    def overlap(self, start: float, end: float) -> bool:
        """Whether a disturbance overlapped a time span."""
        with self._lock:
            return any(begun <= end and (ended is None or ended >= start) for begun, ended in self._times)
