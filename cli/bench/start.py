"""`capeserve bench start`: start-up time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import one_repository, progress_line, quick, recorded, serves, show

if TYPE_CHECKING:
    from benchmarks.harness.records import Record
    from benchmarks.start.measurement import Start


@click.command()
@one_repository
@serves
@click.option("--starts", type=click.IntRange(min=1), help="Number of starts.  [default: 5; with --quick 2]")
@quick
@recorded("start", "From the start of a server to its first answers")
def start(repository: Path, settings: dict[str, object], starts: int | None, quick: bool, record: Record) -> None:
    """Measure the time from start to ready and to the first answer; the first start may read from disk."""
    from benchmarks.start.measurement import document, measure_starts, tables
    from cli.bench.serving import serve

    def step(found: list[Start]) -> None:
        progress_line(f"ready after {found[-1].ready:.2f} s")
        record.write(document(found), tables(found))

    found = measure_starts(repository, serve, settings, starts or (2 if quick else 5), step)
    show(tables(found), record.write(document(found), tables(found)))
