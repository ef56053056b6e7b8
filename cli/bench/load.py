"""`capeserve bench load`: a server under load."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import one_repository, progress_line, quick, recorded, serves, show

if TYPE_CHECKING:
    from benchmarks.harness.records import Record
    from benchmarks.load.measurement import Report


@click.command()
@one_repository
@serves
@click.option("--seconds", type=click.FloatRange(min=0.5), help="Length of each run.  [default: 15; with --quick 3]")
@click.option("--keypoints", type=click.IntRange(1, 100), default=17, show_default=True, help="Keypoints of a support.")
@click.option(
    "--max-in-flight",
    type=click.IntRange(min=1),
    help="The server's limit of concurrent calls.  [default: the server's]",
)
@quick
@recorded("load", "A server under load")
def load(
    repository: Path,
    settings: dict[str, object],
    seconds: float | None,
    keypoints: int,
    max_in_flight: int | None,
    quick: bool,
    record: Record,
) -> None:
    """Measure a server in its own process under load, over gRPC.

    Closed loops of 1 to 32 callers, with one support and with many; open loops at rates up to the capacity, with
    latency counted from the time at which a call was due; and an overload of three times the capacity. About 4 minutes;
    half a minute with --quick.
    """
    from benchmarks.load.measurement import QUICK, Plan, measure_load
    from benchmarks.load.report import document, draw, tables
    from cli.bench.serving import serve

    plan = replace(QUICK if quick else Plan(), keypoints=keypoints)
    if seconds is not None:
        plan = replace(plan, seconds=seconds)
    if max_in_flight is not None:
        settings["max_in_flight"] = max_in_flight

    def step(report: Report) -> None:
        last = report.runs[-1]
        progress_line(f"{last.kind}, {last.level:.1f}: {last.outcome.throughput:.1f} answers/s")
        record.write(document(report), tables(report))

    report = measure_load(repository, serve, plan, settings, step)
    show(tables(report), record.write(document(report), tables(report), functools.partial(draw, report)))
