"""Measures whether a server's memory grows with the number of requests: `capeserve bench memory`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from benchmarks.harness.calls import METHOD, OPTIONS, cold_request, register, warm_request
from benchmarks.harness.serving import Served, resident_bytes
from benchmarks.harness.tables import ReportTable
from benchmarks.harness.workloads import used_modalities, workload
from cape.manifest import read_manifest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALLERS = 16

COLD_EVERY = 20
"""Every n-th request has a new support, so that caches fill and evict."""

CACHES = {"support_cache_bytes": "8MiB", "text_cache_bytes": "4MiB", "definition_cache_bytes": "1MiB"}
"""Small caches, full long before the second half: growth after that is a leak."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A memory sample.

    Attributes:
        requests: answered by then.
        resident: bytes of the process in RAM.
    """

    requests: int
    resident: int


def growth(samples: Sequence[Sample]) -> float:
    """Growth over the second half in bytes per request: the slope of a straight line through it.

    Raises:
        ValueError: fewer than two samples in that half.
    """
    half = [sample for sample in samples if sample.requests >= samples[-1].requests / 2]
    if len(half) < 2:
        raise ValueError(f"{len(half)} samples in the second half; at least two")
    slope, _ = np.polyfit([sample.requests for sample in half], [sample.resident for sample in half], 1)
    return float(slope)


def measure_memory(
    repository: Path, served: Served, requests: int, samples: int, step: Callable[[list[Sample]], None]
) -> list[Sample]:
    """Sends requests and samples the server's memory.

    Args:
        repository: what the server serves.
        served: with the caches of `CACHES`.
        requests: how many to send.
        samples: number of samples.
        step: called with the samples so far.

    Raises:
        grpc.RpcError: a request failed.
    """
    spec = next(iter(read_manifest(repository).systems.values()))
    work = workload(modalities=used_modalities(spec))
    found = [Sample(0, resident_bytes(served.pid))]

    async def run() -> None:
        (name,) = await asyncio.to_thread(register, served.target, [work.support])
        known, numbers = warm_request(work, name), itertools.count(1)
        every = max(1, requests // samples)
        async with grpc.aio.insecure_channel(served.target, OPTIONS) as channel:
            call: Any = channel.unary_unary(METHOD)
            answered = 0

            async def caller() -> None:
                nonlocal answered
                while (number := next(numbers)) <= requests:
                    await call(known if number % COLD_EVERY else cold_request(work, number), timeout=120.0)
                    answered += 1
                    if answered % every == 0:
                        found.append(Sample(answered, resident_bytes(served.pid)))
                        step(found)

            await asyncio.gather(*(caller() for _ in range(CALLERS)))

    asyncio.run(run())
    return found


def tables(samples: Sequence[Sample]) -> tuple[ReportTable, ...]:
    """Memory over requests, and how fast it grows."""
    rows = tuple((f"{sample.requests:,}", f"{sample.resident / 2**20:.1f}") for sample in samples)
    notes = [f"One request of {COLD_EVERY} brings a new support; caches are small, and overflow in the first half."]
    if len(samples) > 3:
        notes.append(f"Growth over the second half: {growth(samples):.0f} bytes a request.")
    return (ReportTable("Memory of the server's process", ("requests answered", "resident, MiB"), rows, tuple(notes)),)


def document(samples: Sequence[Sample]) -> dict[str, Any]:
    """Everything as JSON, in bytes."""
    return {
        "samples": [asdict(sample) for sample in samples],
        "growth_bytes_per_request": growth(samples) if len(samples) > 3 else None,
    }


def draw(samples: Sequence[Sample], figure: Figure) -> None:
    """Memory over requests."""
    axes = figure.add_subplot()
    axes.plot([one.requests for one in samples], [one.resident / 2**20 for one in samples], "o-")
    axes.set(xlabel="requests answered", ylabel="resident memory, MiB")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
