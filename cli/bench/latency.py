"""`capeserve bench latency`: Table 5 reproduced."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import progress_line, quick, recorded, serves, several_repositories, show

if TYPE_CHECKING:
    from benchmarks.harness.records import Record
    from benchmarks.latency.measurement import SystemLatency


@click.command()
@several_repositories
@serves
@click.option("--runs", type=click.IntRange(min=3), help="Measured runs of each kind.  [default: 100; with --quick 10]")
@click.option("--keypoints", type=click.IntRange(1, 100), default=17, show_default=True, help="Keypoints of a support.")
@quick
@recorded("latency", "Table 5 again")
def latency(
    repositories: tuple[Path, ...],
    settings: dict[str, object],
    runs: int | None,
    keypoints: int,
    quick: bool,
    record: Record,
) -> None:
    """Measure every system as in the paper's Table 5, cold and warm, engine alone and over gRPC.

    One request at a time, interleaved with runs of the engine alone. About two minutes per system of the published size
    on two CPU cores; results are written after every repository.
    """
    from benchmarks.latency.measurement import measure_latencies
    from benchmarks.latency.report import document, draw, tables
    from cli.bench.serving import serve

    rows: list[SystemLatency] = []
    for repository in repositories:
        rows += measure_latencies(
            repository,
            serve,
            settings,
            keypoints=keypoints,
            runs=runs or (10 if quick else 100),
            progress=progress_line,
        )
        paths = record.write(document(rows), tables(rows), functools.partial(draw, rows))
    show(tables(rows), paths)
