"""`capeserve bench scaling`: cost by request size, cores and processes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import one_repository, progress_line, quick, recorded, serves, show

if TYPE_CHECKING:
    from benchmarks.harness.records import Record
    from benchmarks.scaling.measurement import Point


@click.command()
@one_repository
@serves
@click.option("--runs", type=click.IntRange(min=1), help="Requests of each kind.  [default: 15; with --quick 3]")
@click.option(
    "--seconds", type=click.FloatRange(min=0.5), help="Seconds of a throughput run.  [default: 10; with --quick 1.5]"
)
@quick
@recorded("scaling", "Cost by request size, cores and processes")
def scaling(
    repository: Path,
    settings: dict[str, object],
    runs: int | None,
    seconds: float | None,
    quick: bool,
    record: Record,
) -> None:
    """Measure the cost of keypoints, shots, boxes and megapixels, and the gain from cores and processes.

    About 5 minutes for a model of the published size on two CPU cores; results are written after every value.
    """
    from benchmarks.scaling.measurement import QUICK, Plan, measure_scaling
    from benchmarks.scaling.report import document, draw, tables
    from cli.bench.serving import serve

    plan = QUICK if quick else Plan()
    plan = replace(plan, runs=runs or plan.runs, seconds=seconds or plan.seconds)

    def step(points: Sequence[Point]) -> None:
        progress_line(f"{points[-1].quantity}: {points[-1].value:g}")
        record.write(document(points), tables(points))

    points = measure_scaling(repository, serve, plan, settings, step)
    show(tables(points), record.write(document(points), tables(points), functools.partial(draw, points)))
