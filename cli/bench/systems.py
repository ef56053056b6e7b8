"""`capeserve bench systems`: every system, counted, exported and served."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from cli.server_process import server_process

if TYPE_CHECKING:
    from cape.configuration import SystemName


@click.command()
@click.option(
    "--system",
    "systems",
    multiple=True,
    type=click.Choice(["flf", "dlf", "capex", "graphcape", "visual_only", "textual_only", "capeformer", "capellm"]),
    help="Measure this system; repeatable.  [default: all]",
)
@click.option(
    "--examples",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(__file__).resolve().parents[2] / "examples",
    help="Folder of the example images and annotations.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Markdown file to write; sections that are not measured now stay.",
)
def systems(systems: tuple[str, ...], examples: Path, output: Path | None) -> None:
    """Measure every system in every form: counted, exported, served, against PyTorch and the published code.

    Each system is built at the published size and exported, which takes some minutes.
    """
    from benchmarks.capellm.systems import SYSTEM as CAPELLM
    from benchmarks.capellm.systems import capellm_section, measure_capellm
    from benchmarks.cost.measurement import SYSTEMS
    from benchmarks.systems.measurement import document, measure_system

    @contextlib.contextmanager
    def serve(repository: Path) -> Iterator[str]:
        with server_process(repository) as (_, target):
            yield target

    old = output.read_text(encoding="utf-8") if output is not None and output.exists() else ""
    rows, section = [], None
    for system in systems or (*SYSTEMS, CAPELLM):
        click.echo(f"measuring {system}", err=True)
        asked = (examples / "astronaut.yaml", examples / "grace_hopper.jpg", serve)
        if system == CAPELLM:
            section = capellm_section(measure_capellm(*asked))
        else:
            rows.append(measure_system(cast("SystemName", system), *asked))
        text = document(old, rows, section)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text, encoding="utf-8")
    click.echo(text)
