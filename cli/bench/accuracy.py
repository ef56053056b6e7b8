"""`capeserve bench accuracy`: the accuracy cost of serving."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.annotated_data import annotated_data, drawn_pairs
from cli.bench.options import progress_line, recorded, serves, several_repositories, show

if TYPE_CHECKING:
    from benchmarks.harness.records import Record

_PATH = click.Path(exists=True, path_type=Path)


@click.command()
@click.option("--checkpoint", required=True, type=_PATH, help="Checkpoint that the repositories were exported from.")
@several_repositories
@serves
@annotated_data
@click.option("--shots", type=click.IntRange(1, 16), default=1, show_default=True, help="Support images of an episode.")
@drawn_pairs
@click.option(
    "--megapixels",
    type=click.FloatRange(min=0.1),
    help="Also enlarge the queries to so many million pixels, as JPEGs, and compare decoding them in full with "
    "decoding them at the scale that their crops need, in the first repository.",
)
@recorded("accuracy", "Accuracy cost of serving")
def accuracy(
    checkpoint: Path,
    repositories: tuple[Path, ...],
    settings: dict[str, object],
    data: dict[str, Any],
    shots: int,
    episodes: int,
    queries: int,
    seed: int,
    megapixels: float | None,
    record: Record,
) -> None:
    """Measure PCK lost between PyTorch float32 and what is served, on the same test pairs.

    The checkpoint in PyTorch, its exported repositories in every engine and precision that this machine has, and each
    of them in its own service over gRPC; --engine and --precision apply to the service.
    """
    from benchmarks.accuracy.measurement import reduced_accuracy, served_accuracy
    from benchmarks.accuracy.report import document, draw, tables
    from cape.checkpoints import CheckpointError
    from cape.data.dataset import DatasetError
    from cape.data.pairs import draw_pairs
    from cape.data.sources import open_dataset, parse_data_source
    from cape.evaluation.estimator import EstimationError
    from cape.modalities import MissingModalityError
    from cli.bench.serving import serve
    from cli.checkpoints import load_any

    try:
        dataset = open_dataset(parse_data_source(data))
        plan = draw_pairs(dataset, shots=shots, episodes=episodes, queries=queries, seed=seed)
        loaded = load_any(checkpoint, None, None)
        found = [served_accuracy(dataset, plan, loaded, repositories, serve, settings, progress_line)]
        record.write(document(found), tables(found, plan.notes))
        if megapixels is not None:
            found.append(reduced_accuracy(dataset, plan, repositories[0], megapixels, progress_line))
    except (CheckpointError, DatasetError, EstimationError, MissingModalityError) as error:
        raise click.ClickException(str(error)) from None
    shown = tables(found, plan.notes)
    show(shown, record.write(document(found), shown, functools.partial(draw, found)))
