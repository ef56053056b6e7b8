"""`capeserve bench compare`: several servers of one model."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import progress_line, quick, recorded, several_repositories, show

if TYPE_CHECKING:
    from benchmarks.compare.measurement import Result
    from benchmarks.harness.records import Record
    from service.engines.choice import EngineName

WITHOUT = ("eager", "compile", "litserve", "triton")


@click.command()
@several_repositories
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Checkpoint that the repositories were exported from."
)
@click.option(
    "--untrained",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of a checkpoint: the configuration (JSON) exported with random weights.",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(["onnxruntime", "openvino"]),
    help="Engine of capeserve; repeatable.  [default: all installed]",
)
@click.option("--without", multiple=True, type=click.Choice(WITHOUT), help="Leave out; repeatable.")
@click.option("--rounds", type=click.IntRange(min=1), help="Turns of each candidate.  [default: 3; with --quick 1]")
@click.option("--seconds", type=click.FloatRange(min=0.2), help="Seconds of a load run.  [default: 6; with --quick 1]")
@quick
@recorded("compare", "Ways to serve one model")
def compare(
    repositories: tuple[Path, ...],
    checkpoint: Path | None,
    untrained: Path | None,
    engines: tuple[EngineName, ...],
    without: tuple[str, ...],
    rounds: int | None,
    seconds: float | None,
    quick: bool,
    record: Record,
) -> None:
    """Measure PyTorch eager, torch.compile, LitServe and capeserve on the same weights, interleaved.

    The repositories must have been exported from the checkpoint, one per precision. PyTorch runs as in research code:
    text encoder, support pass, query pass and head with every request. The result names candidates that could not
    run. About 8 minutes for a model of the published size on two CPU cores.
    """
    from benchmarks.compare.candidates.launch import Choice, LaunchedCandidates, MismatchError
    from benchmarks.compare.measurement import QUICK, Plan
    from benchmarks.compare.report import document, draw, tables
    from cli.bench.serving import serve

    if (checkpoint is None) == (untrained is None):
        raise click.UsageError("give one of --checkpoint and --untrained")
    plan = QUICK if quick else Plan()
    plan = replace(plan, rounds=rounds or plan.rounds, seconds=seconds or plan.seconds)
    source = ("checkpoint", checkpoint) if checkpoint is not None else ("untrained", untrained)
    choice = Choice(repositories, source, engines, frozenset(without))  # type: ignore[arg-type]  # one of them is there
    with ExitStack() as stack:
        try:
            candidates = LaunchedCandidates(choice, serve, stack, progress_line)
        except MismatchError as error:
            raise click.ClickException(str(error)) from None

        def step(results: list[Result]) -> None:
            record.write(document(results, candidates.absent, candidates.described), tables(results, candidates.absent))

        results = candidates.measure(plan, step)
    shown = tables(results, candidates.absent)
    found = document(results, candidates.absent, candidates.described)
    show(shown, record.write(found, shown, functools.partial(draw, results)))
