"""`capeserve bench memory`: memory growth."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import one_repository, progress_line, quick, recorded, serves, show

if TYPE_CHECKING:
    from benchmarks.harness.records import Record
    from benchmarks.memory.measurement import Sample


@click.command()
@one_repository
@serves
@click.option(
    "--requests", type=click.IntRange(min=100), help="Number of requests.  [default: 20000; with --quick 400]"
)
@click.option("--null", is_flag=True, help="Use an engine that answers at once, to measure the service alone.")
@quick
@recorded("memory", "Memory of a server by number of requests")
def memory(
    repository: Path, settings: dict[str, object], requests: int | None, null: bool, quick: bool, record: Record
) -> None:
    """Measure whether a server's memory grows with the number of requests.

    20,000 requests take about two minutes with --null.
    """
    from benchmarks.front_end.measurement import null_server
    from benchmarks.memory.measurement import CACHES, document, draw, measure_memory, tables
    from cli.bench.serving import serve
    from cli.server_process import free_port

    def step(samples: list[Sample]) -> None:
        progress_line(f"{samples[-1].requests} requests: {samples[-1].resident / 2**20:.1f} MiB")
        record.write(document(samples), tables(samples))

    opened = null_server(repository, free_port(0), CACHES) if null else serve(repository, {**CACHES, **settings})
    with opened as served:
        samples = measure_memory(repository, served, requests or (400 if quick else 20_000), 20, step)
    show(tables(samples), record.write(document(samples), tables(samples), functools.partial(draw, samples)))
