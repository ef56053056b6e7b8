"""Live latency and throughput of each system, beside the paper's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

WINDOW_SECONDS = 300.0
"""Time that the figures cover."""

MAX_REQUESTS = 20_000
"""Requests per system that are remembered; a busier server's figures cover less time."""


@dataclass(frozen=True, slots=True)
class PaperFigures:
    """A row of the paper.

    Attributes:
        seconds: inference time of one query.
        frames_per_second: throughput.
    """

    seconds: float
    frames_per_second: float


PAPER = {
    "graphcape": PaperFigures(0.06185, 16.15),
    "capex": PaperFigures(0.03827, 26.13),
    "flf": PaperFigures(0.06135, 16.30),
    "dlf": PaperFigures(0.06885, 14.52),
}
"""Table 5 of the multi-modal paper, by system: an RTX 3060, each query with its support."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latency of some requests, in seconds; 0 where there are none."""

    count: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Percentiles:
        """The percentiles of latencies in seconds; each is one request's latency, not a mean of two."""
        values = np.fromiter(seconds, dtype=np.float64)
        if not len(values):
            return cls(0, 0.0, 0.0, 0.0)
        p50, p95, p99 = np.quantile(values, (0.5, 0.95, 0.99), method="inverted_cdf").tolist()
        return cls(len(values), p50, p95, p99)


@dataclass(frozen=True, slots=True)
class SystemPerformance:
    """How a system fares.

    Attributes:
        system: its name.
        start_time: start of what the figures cover, in seconds since 1970.
        instances: boxes answered in that time.
        warm: latency of requests whose support was cached.
        cold: latency of requests whose support had to be computed.
        frames_per_second: instances answered per second of that time.
        paper: the paper's row for the system.
        speed_ratio: the paper's time ÷ warm median, above 1 where this is faster; None without either.
    """

    system: str
    start_time: float
    instances: int
    warm: Percentiles
    cold: Percentiles
    frames_per_second: float
    paper: PaperFigures | None
    speed_ratio: float | None


@dataclass(frozen=True, slots=True)
class _Request:
    finished: float
    seconds: float
    instances: int
    warm: bool


class PerformanceMonitor:
    """Remembers the requests of the last minutes."""

    def __init__(
        self,
        systems: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        """Starts with nothing.

        Args:
            systems: names of the systems that are served.
            clock: seconds since any moment; it does not jump.
            calendar: seconds since 1970; what it says may jump, and is only told, never reckoned with.
        """
        self._clock = clock
        self._calendar = calendar
        self._started = clock()
        # Prometheus reads in a thread of its own, and a deque that grows cannot be read.
        self._lock = threading.Lock()
        self._requests: dict[str, deque[_Request]] = {system: deque(maxlen=MAX_REQUESTS) for system in systems}

    def record(self, system: str, seconds: float, *, instances: int, warm: bool) -> None:
        """A request was answered.

        Args:
            system: the system that answered.
            seconds: from its arrival to its answer.
            instances: boxes in it.
            warm: its support's tokens were cached.
        """
        with self._lock:
            self._requests[system].append(_Request(self._clock(), seconds, instances, warm))

    def report(self) -> list[SystemPerformance]:
        """The figures of every system, now."""
        return [self._report(system) for system in self._requests]

    def _report(self, system: str) -> SystemPerformance:
        now = self._clock()
        with self._lock:
            remembered = tuple(self._requests[system])
        start = max(self._started, now - WINDOW_SECONDS)
        if len(remembered) == MAX_REQUESTS:
            start = max(start, remembered[0].finished)
        requests = [request for request in remembered if request.finished >= start]
        instances = sum(request.instances for request in requests)
        warm = Percentiles.of(request.seconds for request in requests if request.warm)
        cold = Percentiles.of(request.seconds for request in requests if not request.warm)
        paper = PAPER.get(system)
        return SystemPerformance(
            system=system,
            start_time=self._calendar() - (now - start),
            instances=instances,
            warm=warm,
            cold=cold,
            frames_per_second=instances / (now - start) if now > start else 0.0,
            paper=paper,
            speed_ratio=paper.seconds / warm.p50 if paper and warm.p50 else None,
        )
