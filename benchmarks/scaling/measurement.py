"""Cost by request size, and gain from cores and processes: `capeserve bench scaling`.

Keypoints, shots, boxes and image size are measured one request at a time on one server; cores and processes by the
throughput of 16 callers, with new servers for each number.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.harness.arrivals import closed_loop, outcome
from benchmarks.harness.calls import Caller, cold_request, in_turn, register, warm_request
from benchmarks.harness.serving import Serve, Served
from benchmarks.harness.workloads import Workload, used_modalities, workload
from cape.manifest import read_manifest
from cape.support import Modality
from service.telemetry.performance import Percentiles

STAGES = ("decode", "prepare", "backbone", "decoder", "total")
"""Fields of `cape.v1.Timing` that are recorded."""

CALLERS = 16

MAX_MESSAGE = "256MiB"
"""Server limits for the largest images."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        keypoints, shots, boxes, megapixels: values to measure.
        processes: numbers of servers that share the CPUs.
        runs: requests of each kind and value.
        seconds: length of a throughput run.
    """

    keypoints: Sequence[int] = (8, 17, 24, 48, 68, 100)
    shots: Sequence[int] = (1, 2, 3, 5)
    boxes: Sequence[int] = (1, 2, 4, 8, 16, 32)
    megapixels: Sequence[float] = (0.1, 1.0, 4.0, 12.0, 25.0, 49.0)
    processes: Sequence[int] = (1, 2)
    runs: int = 15
    seconds: float = 10.0


QUICK = Plan(
    keypoints=(8, 100), shots=(1, 5), boxes=(1, 4), megapixels=(0.1, 12.0), processes=(1, 2), runs=3, seconds=1.5
)


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one quantity.

    Attributes:
        quantity: 'keypoints', 'shots', 'boxes', 'megapixels', 'cores' or 'processes'.
        value: of it.
        warm: round trips of queries whose support is cached, in seconds; None for throughput runs.
        stages: medians of the server's own timing of these, in seconds.
        cold: round trips of queries with a new support; None where it is not measured.
        rate: answers per second of 16 callers; None where it is not measured.
        request_bytes: size of a warm request.
    """

    quantity: str
    value: float
    warm: Percentiles | None = None
    stages: Mapping[str, float] | None = None
    cold: Percentiles | None = None
    rate: float | None = None
    request_bytes: int = 0


Step = Callable[[Sequence[Point]], None]


def measure_scaling(
    repository: Path, serve: Serve, plan: Plan, settings: Mapping[str, object], step: Step
) -> list[Point]:
    """Measures a repository's first system.

    Args:
        repository: exported.
        serve: starts the servers.
        plan: what to measure.
        settings: of the servers.
        step: called with the points so far after each.
    """
    manifest = read_manifest(repository)
    spec = next(iter(manifest.systems.values()))
    points: list[Point] = []

    def add(point: Point) -> None:
        points.append(point)
        step(points)

    large = {"max_message_bytes": MAX_MESSAGE, "max_image_bytes": "128MiB"}
    with serve(repository, {**large, **settings}) as served, Caller(served.target) as caller:
        one_by_one = _OneByOne(served, caller, plan.runs, used_modalities(spec))
        one_by_one.point("warm-up", 0, workload(modalities=one_by_one.modalities))
        for keypoints in plan.keypoints:
            if keypoints <= manifest.max_keypoints:
                work = workload(keypoints=keypoints, modalities=one_by_one.modalities)
                add(one_by_one.point("keypoints", keypoints, work, cold=True))
        for shots in plan.shots if spec.modalities.image != "unused" else ():
            add(one_by_one.point("shots", shots, workload(shots=shots, modalities=one_by_one.modalities), cold=True))
        for boxes in plan.boxes:
            add(one_by_one.point("boxes", boxes, workload(boxes=boxes, modalities=one_by_one.modalities)))
        for megapixels in plan.megapixels:
            work = workload(megapixels=megapixels, modalities=one_by_one.modalities)
            add(one_by_one.point("megapixels", megapixels, work))
    work = workload(modalities=used_modalities(spec))
    cpus = sorted(os.sched_getaffinity(0))
    for cores in range(1, len(cpus) + 1):
        with serve(repository, settings, frozenset(cpus[:cores])) as served:
            add(Point("cores", cores, rate=throughput([served], work, plan.seconds)))
    for processes in plan.processes:
        with ExitStack() as stack:
            shares = [frozenset(cpus[index::processes]) or None for index in range(processes)]
            servers = [stack.enter_context(serve(repository, settings, share)) for share in shares]
            add(Point("processes", processes, rate=throughput(servers, work, plan.seconds)))
    return points


def throughput(servers: Sequence[Served], work: Workload, seconds: float) -> float:
    """Answers per second of 16 callers that use the servers in turn, after a warm-up of a third of the time."""

    async def measure() -> float:
        requests: list[tuple[str, bytes]] = []
        for served in servers:
            (name,) = await asyncio.to_thread(register, served.target, [work.support])
            requests.append((served.target, warm_request(work, name)))
        async with in_turn(requests) as ask:
            await closed_loop(ask, CALLERS, seconds / 3)
            found = outcome(await closed_loop(ask, CALLERS, seconds))
        return found.throughput

    return asyncio.run(measure())


class _OneByOne:
    """Sequential requests to one server."""

    def __init__(self, served: Served, caller: Caller, runs: int, modalities: tuple[Modality, ...]) -> None:
        self._served, self._caller, self._runs, self.modalities = served, caller, runs, modalities
        self._numbers = itertools.count(time.time_ns())

    def point(self, quantity: str, value: float, work: Workload, *, cold: bool = False) -> Point:
        """Measures one value; cold requests only if the quantity affects them."""
        (name,) = register(self._served.target, [work.support])
        known = warm_request(work, name)
        self._caller.ask(known)
        warm = [self._caller.ask(known) for _ in range(self._runs)]
        timings = [measured.response.timing for measured in warm]
        stages = {stage: median(_seconds(getattr(timing, stage)) for timing in timings) for stage in STAGES}
        unseen: list[float] = []
        if cold:
            self._caller.ask(cold_request(work, next(self._numbers)))
            unseen = [self._caller.ask(cold_request(work, next(self._numbers))).seconds for _ in range(self._runs)]
        return Point(
            quantity,
            value,
            Percentiles.of(measured.seconds for measured in warm),
            stages,
            Percentiles.of(unseen) if cold else None,
            request_bytes=len(known),
        )


def _seconds(duration: object) -> float:
    return float(duration.seconds + duration.nanos / 1e9)  # type: ignore[attr-defined]  # a protobuf Duration
