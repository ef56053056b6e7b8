"""Time from a server's start to its first answers: `capeserve bench start`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.calls import Caller, register, warm_request
from benchmarks.harness.serving import Serve, resident_bytes
from benchmarks.harness.tables import ReportTable
from benchmarks.harness.workloads import used_modalities, workload
from cape.manifest import read_manifest


@dataclass(frozen=True, slots=True)
class Start:
    """One start; times in seconds from the start of the process.

    Attributes:
        ready: the health service answers SERVING, polled ten times a second.
        answered: the first query is answered, its support registered and encoded.
        resident: bytes of its memory then.
    """

    ready: float
    answered: float
    resident: int


def measure_starts(
    repository: Path,
    serve: Serve,
    settings: Mapping[str, object],
    starts: int,
    step: Callable[[list[Start]], None],
) -> list[Start]:
    """Starts a server several times; at the first start, files may not be in the page cache."""
    spec = next(iter(read_manifest(repository).systems.values()))
    work = workload(modalities=used_modalities(spec))
    found: list[Start] = []
    for _ in range(starts):
        begin = time.perf_counter()
        with serve(repository, settings) as served, Caller(served.target) as caller:
            ready = time.perf_counter() - begin
            (name,) = register(served.target, [work.support])
            caller.ask(warm_request(work, name))
            found.append(Start(ready, time.perf_counter() - begin, resident_bytes(served.pid)))
        step(found)
    return found


def tables(starts: Sequence[Start]) -> tuple[ReportTable, ...]:
    """Every start, and the median without the first."""
    rows = [(str(number), *_cells(start)) for number, start in enumerate(starts, start=1)]
    if warm := starts[1:]:
        middle = Start(
            median(one.ready for one in warm), median(one.answered for one in warm), warm[len(warm) // 2].resident
        )
        rows.append(("median without the first", *_cells(middle)))
    note = "Ready: the health service says so. First answer: a support has been registered and encoded, and a query."
    return (
        ReportTable("Starts, seconds", ("start", "ready", "first answer", "memory then, MiB"), tuple(rows), (note,)),
    )


def document(starts: Sequence[Start]) -> dict[str, Any]:
    """Everything as JSON; times in seconds, memory in bytes."""
    return {"starts": [asdict(one) for one in starts]}


def _cells(start: Start) -> tuple[str, str, str]:
    return f"{start.ready:.2f}", f"{start.answered:.2f}", f"{start.resident / 2**20:.0f}"
