"""`capeserve quantise`: an exported repository with its image backbone in int8."""

from __future__ import annotations

from pathlib import Path

import click

from cli.annotated_data import annotated_data, drawn_pairs
from cli.bench.options import progress_line
from cli.consoles import console, step_progress

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--repository",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Exported repository in float32; stays as it is.",
)
@click.option("--output", required=True, type=_FOLDER, help="Folder of the repository to write.")
@click.option("--force", is_flag=True, help="Replace the repository that is there.")
@annotated_data
@click.option(
    "--calibrate-on", type=click.IntRange(min=1), default=64, show_default=True, help="Objects to calibrate on."
)
@drawn_pairs
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.3,
    show_default=True,
    help="Points of PCK@0.2 that may be lost; if it is more, nothing is written.",
)
def quantise(
    repository: Path,
    output: Path,
    force: bool,
    data: dict[str, object],
    calibrate_on: int,
    episodes: int,
    queries: int,
    seed: int,
    tolerance: float,
) -> None:
    """Store a repository's image backbone in int8, calibrated on pictures, and check what that costs in accuracy.

    Activations are calibrated on objects of the data, and PCK is compared on others of it, before anything is written.
    Worth it where the CPU multiplies int8 fast (VNNI, AMX): measure with `capeserve bench latency`.
    """
    from benchmarks.accuracy.int8_gate import JUDGED_AT, calibration_crops, compare_repositories
    from benchmarks.accuracy.measurement import Comparison
    from benchmarks.accuracy.report import tables
    from benchmarks.harness.tables import terminal_table
    from cape.data.dataset import DatasetError
    from cape.data.pairs import draw_pairs
    from cape.data.sources import open_dataset, parse_data_source
    from cape.evaluation.estimator import EstimationError
    from cape.manifest import ManifestError, read_manifest
    from cape.modalities import MissingModalityError

    try:
        from export.graph import ExportError
        from export.quantisation import quantise_repository
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[export]'") from None

    found: list[Comparison] = []

    def check(quantised: Path) -> None:
        comparison = compare_repositories(dataset, plan, repository, quantised, progress_line)
        found.append(comparison)
        lost = comparison.lost(comparison.ways[1], JUDGED_AT)
        if lost > tolerance:
            raise ExportError(
                f"int8 loses {lost:.2f} points of PCK@{JUDGED_AT:g}, more than --tolerance {tolerance:g}: "
                "nothing was written"
            )

    try:
        dataset = open_dataset(parse_data_source(data))
        plan = draw_pairs(dataset, episodes=episodes, queries=queries, seed=seed)
        crops = calibration_crops(dataset, plan, read_manifest(repository), calibrate_on, seed)
        with step_progress() as progress:
            quantise_repository(repository, output, crops, check, force=force, progress=progress)
    except (DatasetError, EstimationError, ExportError, ManifestError, MissingModalityError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        for table in tables(found):
            console().print(terminal_table(table))
    console(stderr=True).print(f"Wrote {output}. Serve it: capeserve serve --repository {output}")
