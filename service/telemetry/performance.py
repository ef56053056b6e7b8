"""Live latency and throughput of each system, compared with the paper."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WINDOW_SECONDS = 300.0
"""Time that the figures cover, in seconds."""

MAX_REQUESTS = 20_000
"""Requests remembered per system; the figures of a busier server cover less time."""


@dataclass(frozen=True, slots=True)
class PaperFigures:
    """A row of Table 5.

    Attributes:
        seconds: inference time of one query with its support, which the paper encodes again for every query.
        frames_per_second: its inverse.
        parameters: of the model, text encoder included.
    """

    seconds: float
    frames_per_second: float
    parameters: int


PAPER = {
    "graphcape": PaperFigures(0.06185, 16.15, 58_742_000),
    "capex": PaperFigures(0.03827, 26.13, 195_519_000),
    "flf": PaperFigures(0.06135, 16.30, 195_715_000),
    "dlf": PaperFigures(0.06885, 14.52, 203_742_000),
}
"""Table 5 of the multi-modal paper, by system, measured on an RTX 3060."""

SIZE_TOLERANCE = 0.02
"""Largest relative difference of a model's parameters from the paper's: whether the unused classifier of the backbone
is counted makes 1.3 %; the next smaller published backbone, Swin V2-T, makes 10 %."""


def paper_row(system: str, parameters: int) -> PaperFigures | None:
    """The paper's row for a model; None for other systems, and for models of another size.

    Args:
        system: name of the system, 'flf'.
        parameters: of the model, text encoder included.
    """
    row = PAPER.get(system)
    if row is None or abs(parameters / row.parameters - 1) > SIZE_TOLERANCE:
        return None
    return row


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latency percentiles of some requests, in seconds; 0 without requests."""

    count: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Percentiles:
        """The percentiles of latencies in seconds. Each is the latency of one request, not an interpolation."""
        values = np.fromiter(seconds, dtype=np.float64)
        if not len(values):
            return cls(0, 0.0, 0.0, 0.0)
        p50, p95, p99 = np.quantile(values, (0.5, 0.95, 0.99), method="inverted_cdf").tolist()
        return cls(len(values), p50, p95, p99)


@dataclass(frozen=True, slots=True)
class SystemPerformance:
    """Live figures of a system.

    Attributes:
        system: its name.
        start_time: start of the covered time, in seconds since 1970.
        instances: boxes answered in that time.
        warm: latency of requests whose support was cached.
        cold: latency of requests whose support had to be computed.
        frames_per_second: instances ÷ covered time. It cannot exceed what callers ask for.
        busy_frames_per_second: instances ÷ the part of that time in which at least one request was being answered.
        paper: the paper's row for the system; None where it has none, or the model has another size.
        speed_ratio: the paper's time ÷ median latency of warm requests with one box, above 1 where this server is
            faster; None without either.
    """

    system: str
    start_time: float
    instances: int
    warm: Percentiles
    cold: Percentiles
    frames_per_second: float
    busy_frames_per_second: float
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
        systems: Mapping[str, PaperFigures | None],
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        """Starts without requests.

        Args:
            systems: the served systems and the paper's row of each, see `paper_row`.
            clock: monotonic, in seconds.
            calendar: wall clock in seconds since 1970, for display only.
        """
        self._paper = dict(systems)
        self._clock = clock
        self._calendar = calendar
        self._started = clock()
        # Prometheus reads in a thread of its own, and a deque cannot be read while it grows.
        self._lock = threading.Lock()
        self._requests: dict[str, deque[_Request]] = {system: deque(maxlen=MAX_REQUESTS) for system in systems}

    def record(self, system: str, seconds: float, *, instances: int, warm: bool) -> None:
        """Records an answered request.

        Args:
            system: that answered.
            seconds: from arrival to answer.
            instances: number of boxes.
            warm: whether the support's tokens were cached.
        """
        with self._lock:
            self._requests[system].append(_Request(self._clock(), seconds, instances, warm))

    def report(self) -> list[SystemPerformance]:
        """The current figures of every system."""
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
        comparable = Percentiles.of(request.seconds for request in requests if request.warm and request.instances == 1)
        busy = _covered(requests, start)
        paper = self._paper[system]
        return SystemPerformance(
            system=system,
            start_time=self._calendar() - (now - start),
            instances=instances,
            warm=warm,
            cold=cold,
            frames_per_second=instances / (now - start) if now > start else 0.0,
            busy_frames_per_second=instances / busy if busy else 0.0,
            paper=paper,
            speed_ratio=paper.seconds / comparable.p50 if paper and comparable.p50 else None,
        )


def _covered(requests: Sequence[_Request], start: float) -> float:
    """Seconds since `start` in which at least one of the requests was being answered."""
    covered, end = 0.0, start
    for began, finished in sorted((request.finished - request.seconds, request.finished) for request in requests):
        covered += max(0.0, finished - max(began, end))
        end = max(end, finished)
    return covered
