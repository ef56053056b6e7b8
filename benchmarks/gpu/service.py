"""The gRPC service on a GPU: latency, and the load of many callers on several servers."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import Results, milliseconds
from benchmarks.harness.arrivals import closed_loop, outcome
from benchmarks.harness.calls import in_turn, register, warm_request
from benchmarks.harness.serving import Batches, Serve, read_batches
from benchmarks.harness.workloads import used_modalities, workload
from benchmarks.latency.measurement import measure_latencies
from cape.manifest import QUERY_SUFFIX, Manifest
from service.telemetry.performance import PAPER


def measure_service(
    repository: Path, serve: Serve, settings: dict[str, object], keypoints: int, runs: int, results: Results
) -> None:
    """Latency over gRPC, cold and warm, beside the engine's."""
    for row in measure_latencies(repository, serve, settings, keypoints=keypoints, runs=runs):
        for kind in ("cold", "warm"):
            latency = getattr(row, kind)
            paper = PAPER[row.system].seconds if row.system in PAPER else None
            results.add(
                "over gRPC",
                system=row.system,
                engine=row.engine,
                support=kind,
                p50_ms=milliseconds(latency.round_trip.p50),
                p95_ms=milliseconds(latency.round_trip.p95),
                p99_ms=milliseconds(latency.round_trip.p99),
                engine_ms=milliseconds(latency.engine.p50),
                service_ms=milliseconds(latency.service_cost),
                times_paper=paper and round(paper / latency.round_trip.p50, 2),
            )


def measure_load(
    repository: Path,
    manifest: Manifest,
    serve: Serve,
    settings: dict[str, object],
    count: int,
    callers: int,
    keypoints: int,
    results: Results,
) -> None:
    """Many callers, from processes of their own, to several servers on the one GPU."""
    system = next(iter(manifest.support_systems))
    work = workload(keypoints=keypoints, modalities=used_modalities(manifest.systems[system]))
    with contextlib.ExitStack() as stack:
        began = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            served = list(pool.map(stack.enter_context, [serve(repository, settings) for _ in range(count)]))
        ready = time.perf_counter() - began
        requests = []
        for one in served:
            (name,) = register(one.target, [work.support])
            requests.append((one.target, warm_request(work, name, system)))
        # A caller's process answers for several servers where there are many, and no server has fewer than one process.
        processes = max(4, count)
        shares = [[requests[index % count]] for index in range(processes)]
        before = [read_batches(one) for one in served]
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes) as workers:
            _loads(workers, shares, callers // processes, 1.0)
            found = _loads(workers, shares, callers // processes, 5.0)
        after = [read_batches(one) for one in served]
        runs, rows = _batches(before, after)
        results.add(
            "load",
            servers=count,
            callers=callers // processes * processes,
            caller_processes=processes,
            ready_seconds=round(ready, 1),
            answers_per_second=round(sum(one[0] for one in found), 1),
            p50_ms=milliseconds(statistics.median(one[1] for one in found)),
            p99_ms=milliseconds(max(one[2] for one in found)),
            failed=sum(one[3] for one in found),
            crops_per_run=round(rows / runs, 2) if runs else None,
        )


def _batches(before: Sequence[dict[str, Batches]], after: Sequence[dict[str, Batches]]) -> tuple[int, int]:
    """Runs of query models and backbones between two readings of all servers' metrics, and the crops in them."""
    runs = rows = 0
    for old, new in zip(before, after, strict=True):
        for name, batches in new.items():
            if name.endswith((QUERY_SUFFIX, "image_backbone")):
                since = batches.since(old.get(name, Batches(0, 0)))
                runs, rows = runs + since.runs, rows + since.rows
    return runs, rows


def _loads(
    pool: Any, shares: Sequence[Sequence[tuple[str, bytes]]], callers: int, seconds: float
) -> list[tuple[float, float, float, int]]:
    found: list[tuple[float, float, float, int]] = pool.starmap(
        _one_load, [(share, callers, seconds) for share in shares]
    )
    return found


def _one_load(requests: Sequence[tuple[str, bytes]], callers: int, seconds: float) -> tuple[float, float, float, int]:
    """A process of callers: answers per second, median and 99th percentile of their latency, failures."""

    async def run() -> tuple[float, float, float, int]:
        async with in_turn(requests) as ask:
            calls = outcome(await closed_loop(ask, callers, seconds))
            failed = sum(count for status, count in calls.statuses.items() if status != "OK")
            return calls.throughput, calls.answered.p50, calls.answered.p99, failed

    return asyncio.run(run())
