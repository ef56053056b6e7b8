"""`capeserve bench systems`: every system in every form."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.server_process import server_process

if TYPE_CHECKING:
    from cape.configuration import SystemName


@click.command()
@click.option(
    "--system",
    "systems",
    multiple=True,
    type=click.Choice(["flf", "dlf", "capex", "graphcape", "visual_only", "textual_only", "capeformer"]),
    help="Measure this one; repeatable.  [default: all]",
)
@click.option(
    "--examples",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(__file__).resolve().parents[2] / "examples",
    help="Folder of the photographs and their annotations.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the table here, as Markdown.")
def systems(systems: tuple[SystemName, ...], examples: Path, output: Path | None) -> None:
    """Measure every system in every form: counted, exported, served, against PyTorch and the published code.

    Each is built at the published size and exported: some minutes a system.
    """
    from benchmarks.cost import SYSTEMS
    from benchmarks.systems import measure_system, systems_table

    @contextlib.contextmanager
    def serve(repository: Path) -> Iterator[str]:
        with server_process(repository) as (_, target):
            yield target

    rows = []
    for system in systems or SYSTEMS:
        click.echo(f"measuring {system}", err=True)
        rows.append(measure_system(system, examples / "astronaut.yaml", examples / "grace_hopper.jpg", serve))
        table = systems_table(rows)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(table, encoding="utf-8")
    click.echo(table)
