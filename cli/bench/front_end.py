"""`capeserve bench front-end`: the service around an engine that answers at once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import one_repository, progress_line, quick, recorded, show

if TYPE_CHECKING:
    from benchmarks.front_end.measurement import FrontEnd
    from benchmarks.harness.records import Record


@click.command()
@one_repository
@click.option("--processes", multiple=True, type=click.IntRange(min=1), default=(1, 2), show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.5), help="Seconds of a run.  [default: 8; with --quick 1.5]")
@quick
@recorded("front_end", "The service around an engine that answers at once")
def front_end(repository: Path, processes: tuple[int, ...], seconds: float | None, quick: bool, record: Record) -> None:
    """Measure the CPU time of the service per request, and where it saturates.

    Under a minute.
    """
    from benchmarks.front_end.measurement import measure_front_end
    from benchmarks.front_end.report import document, draw, tables
    from cli.server_process import free_port

    def step(results: list[FrontEnd]) -> None:
        progress_line(f"{results[-1].processes} × {results[-1].input}: {results[-1].rate:.0f} answers/s")
        record.write(document(results), tables(results))

    results = measure_front_end(
        repository, functools.partial(free_port, 0), processes, seconds or (1.5 if quick else 8.0), step
    )
    show(tables(results), record.write(document(results), tables(results), functools.partial(draw, results)))
