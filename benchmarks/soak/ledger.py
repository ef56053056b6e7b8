"""What became of every request of a soak, and when which server was disturbed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

REMEMBERED = 30
"""Wrong and lost requests that are described in the report."""

GRACE_SECONDS = 3.0
"""After a disturbance: until then a client may still wait between two attempts to connect."""


class Ledger:
    """Counts requests by kind and by what became of them; for use by many threads.

    Attributes:
        right: answered, and the answer is right.
        refused: refused with a code that is right at that moment, by kind and code.
        troubles: descriptions of what was wrong or lost, the first ones.
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
        """So many requests of a kind leave now; each must be counted once more below."""
        with self._lock:
            self.sent[kind] += requests

    def count_right(self, kind: str) -> None:
        """An answer is the one that it should be."""
        with self._lock:
            self.right[kind] += 1

    def count_refused(self, kind: str, code: str, requests: int = 1) -> None:
        """So many requests were refused with a code that is right."""
        with self._lock:
            self.refused[kind, code] += requests

    def count_wrong(self, kind: str, description: str) -> None:
        """An answer is another one than it should be, or a refusal has a code that is not right."""
        with self._lock:
            self.wrong[kind] += 1
            self._remember(f"wrong, {kind}: {description}")

    def count_lost(self, kind: str, description: str, requests: int = 1) -> None:
        """Requests that were never answered, or a support that was confirmed and is not there."""
        with self._lock:
            self.lost[kind] += requests
            self._remember(f"lost, {kind}: {description}")

    def _remember(self, trouble: str) -> None:
        if len(self.troubles) < REMEMBERED:
            self.troubles.append(trouble[:500])

    @property
    def unaccounted(self) -> int:
        """Requests that were sent and counted nowhere else."""
        ends = (self.right, self.refused, self.wrong, self.lost)
        return self.sent.total() - sum(counter.total() for counter in ends)


class Disturbances:
    """When a server was being killed, stopped or deprived of its registry: then it may be unavailable."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[tuple[float, float | None]] = []

    @contextmanager
    def now(self) -> Iterator[None]:
        """A disturbance for as long as the block lasts, and a little longer."""
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
        """Whether one was going on at any time between two."""
        with self._lock:
            return any(begun <= end and (ended is None or ended >= start) for begun, ended in self._times)
