"""`capeserve bench ablation`: Table 6 at small scale."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import progress_line, recorded, show
from cli.consoles import step_progress

if TYPE_CHECKING:
    from benchmarks.harness.records import Record
    from cape.configuration import SystemName

CONFIGURATION = Path(__file__).resolve().parents[2] / "configurations" / "training" / "ablation.yaml"

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--config",
    "configuration_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=CONFIGURATION,
    help="Training configuration of every run.  [default: configurations/training/ablation.yaml]",
)
@click.option(
    "--system",
    "systems",
    multiple=True,
    type=click.Choice(["visual_only", "textual_only", "flf", "dlf", "capex", "graphcape"]),
    help="Run this system; repeatable.  [default: all six]",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each system.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps of a run.  [default: the configuration's]")
@click.option("--episodes", type=click.IntRange(min=1), default=4, show_default=True, help="Test episodes a category.")
@click.option("--queries", type=click.IntRange(min=1), default=8, show_default=True, help="Queries of an episode.")
@click.option("--work", type=_FOLDER, default="build/ablation", show_default=True, help="Folder of the runs.")
@recorded("ablation", "Ablation: modalities and fusion")
def ablation(
    configuration_file: Path,
    systems: tuple[SystemName, ...],
    seeds: int,
    steps: int | None,
    episodes: int,
    queries: int,
    work: Path,
    record: Record,
) -> None:
    """Train every system alike, with several seeds, and compare them on unseen categories.

    Finished runs are kept in --work: an interrupted ablation resumes, and processes for different --system may share
    the folder.
    """
    from benchmarks.ablation.measurement import SETTINGS, measure_run, recorded_runs, summarise
    from benchmarks.ablation.report import document, draw, tables
    from cape.training.configuration import read_training_configuration

    objects = episodes * (1 + queries)
    evaluation = {
        "data": {"kind": "synthetic", "split": "test", "objects_per_category": objects},
        "episodes": episodes,
        "queries": queries,
    }
    try:
        base = read_training_configuration(configuration_file)
        if steps is not None:
            base = base.model_copy(update={"schedule": base.schedule.model_copy(update={"steps": steps})})
        for seed in range(seeds):
            for system in systems or SETTINGS:
                with step_progress() as progress:
                    run = measure_run(base, system, seed, evaluation, work, progress)
                progress_line(f"{system}, seed {seed}: PCK@0.2 {100 * run.pck['0.2']:.1f} %")
                runs = recorded_runs(work)
                record.write(document(runs), tables(runs))
    except ValueError as error:  # raised by data, checkpoints, text encoders and configurations
        raise click.ClickException(str(error)) from None
    runs = recorded_runs(work)
    show(tables(runs), record.write(document(runs), tables(runs), functools.partial(draw, summarise(runs))))
