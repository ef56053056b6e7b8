"""`capeserve bench roofline`: the backbone beside the machine's peak."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import progress_line, recorded, several_repositories, show

if TYPE_CHECKING:
    from benchmarks.harness.records import Record


@click.command()
@several_repositories
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 4), show_default=True)
@click.option("--runs", type=click.IntRange(min=3), default=20, show_default=True, help="Measured runs of each kind.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run.  [default: one per CPU]")
@recorded("roofline", "The backbone and the machine's peak")
def roofline(
    repositories: tuple[Path, ...], batches: tuple[int, ...], runs: int, threads: int | None, record: Record
) -> None:
    """Compare the image backbone's time with that of its matrix products at this machine's peak.

    In every installed engine and native precision; the peak is measured with large products in the same engine,
    interleaved with the backbone.
    """
    from benchmarks.harness.matrix_flops import UncountableError
    from benchmarks.roofline.measurement import measure_rooflines
    from benchmarks.roofline.report import document, draw, tables
    from service.errors import EngineError

    try:
        found = measure_rooflines(repositories, batches=batches, runs=runs, threads=threads, progress=progress_line)
    except (EngineError, UncountableError) as error:
        raise click.ClickException(str(error)) from None
    show(tables(found), record.write(document(found), tables(found), functools.partial(draw, found)))
