"""The cost of the service around an engine that answers at once: `capeserve bench front-end`.

The CPU time of the server's process is the cost of a request, independent of other load; the rate of answers also
depends on the CPU time that the callers take.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.harness.arrivals import closed_loop, outcome
from benchmarks.harness.calls import in_turn, register, warm_request
from benchmarks.harness.serving import Served, cpu_seconds
from benchmarks.harness.workloads import Workload, used_modalities, workload
from cape.client import Box
from cape.client.answers import Query
from cape.client.messages import estimate_request
from cape.manifest import read_manifest
from service.telemetry.performance import Percentiles

CALLERS = 16

INPUTS = ("JPEG", "raw crop")
"""An encoded image, which the server decodes and crops; or the pixels of the crop, ready for the model."""


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """Servers under 16 callers.

    Attributes:
        processes: how many servers.
        input: one of `INPUTS`.
        request_bytes: size of a request.
        rate: answers per second.
        cpu: processor seconds of all servers per answer.
        latency: of the callers.
    """

    processes: int
    input: str
    request_bytes: int
    rate: float
    cpu: float
    latency: Percentiles

    @property
    def rate_per_core(self) -> float:
        """Answers per second of one core used by the service alone; a process uses at most one."""
        return 1 / self.cpu if self.cpu else 0.0


@contextmanager
def null_server(repository: Path, port: int, settings: Mapping[str, object] = {}) -> Iterator[Served]:
    """Runs a server with the null engine in its own process."""
    words = tuple(f"{name}={value}" for name, value in settings.items())
    command = (sys.executable, "-m", "benchmarks.harness.null_engine", str(repository), str(port), *words)
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != b"ready":
            raise RuntimeError("the server with the null engine does not start")
        yield Served(f"127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait(40)


def measure_front_end(
    repository: Path,
    free_port: Callable[[], int],
    processes: Sequence[int],
    seconds: float,
    step: Callable[[list[FrontEnd]], None],
) -> list[FrontEnd]:
    """Measures every combination of process count and input.

    Args:
        repository: exported; only its manifest and tokenizer are used.
        free_port: finds one.
        processes: numbers of servers.
        seconds: length of a run.
        step: told the results so far.
    """
    manifest = read_manifest(repository)
    spec = next(iter(manifest.systems.values()))
    work = workload(modalities=used_modalities(spec))
    results: list[FrontEnd] = []
    for count in processes:
        with ExitStack() as stack:
            servers = [stack.enter_context(null_server(repository, free_port())) for _ in range(count)]
            for kind in INPUTS:
                results.append(asyncio.run(_run(servers, kind, work, manifest.image_size, seconds)))
                step(results)
    return results


async def _run(servers: Sequence[Served], kind: str, work: Workload, side: int, seconds: float) -> FrontEnd:
    requests: list[tuple[str, bytes]] = []
    for served in servers:
        (name,) = await asyncio.to_thread(register, served.target, [work.support])
        requests.append((served.target, warm_request(work, name) if kind == "JPEG" else _raw(name, side)))
    async with in_turn(requests) as ask:
        await closed_loop(ask, CALLERS, seconds / 3)
        before = sum(cpu_seconds(served.pid) for served in servers)
        made = await closed_loop(ask, CALLERS, seconds)
        used = sum(cpu_seconds(served.pid) for served in servers) - before
    found = outcome(made)
    answered = max(found.answered.count, 1)
    return FrontEnd(len(servers), kind, len(requests[0][1]), found.throughput, used / answered, found.answered)


def _raw(support: str, side: int) -> bytes:
    """A request whose image is already a crop: raw pixels, whose box is everything but the padding."""
    pixels = np.zeros((side, side, 3), np.uint8)
    work = replace(workload(), image=b"", boxes=(Box(0.1 * side, 0.1 * side, 0.8 * side, 0.8 * side),))
    return estimate_request(Query(pixels, support, work.boxes)).SerializeToString()
