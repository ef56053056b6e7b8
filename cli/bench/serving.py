"""Servers for the benchmarks: `benchmarks.harness.serving.Serve` through `capeserve serve`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.serving import Served
from cli.server_process import free_port, server_process


@contextmanager
def serve(
    repository: Path, settings: Mapping[str, object] = {}, cpus: frozenset[int] | None = None
) -> Iterator[Served]:
    """See `benchmarks.harness.serving.Serve`."""
    port = free_port(0)
    before = os.sched_getaffinity(0)
    # A child inherits its parent's CPU affinity; setting it here avoids code between fork and exec.
    os.sched_setaffinity(0, cpus or before)
    try:
        with server_process(repository, settings={"metrics_port": port, "log_level": "warning", **settings}) as (
            process,
            target,
        ):
            os.sched_setaffinity(0, before)
            yield Served(target, process.pid, f"http://127.0.0.1:{port}/metrics")
    finally:
        os.sched_setaffinity(0, before)
