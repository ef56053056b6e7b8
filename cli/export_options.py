"""Shared by `capeserve export` and its subcommands: destination options and the parity table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from cli.consoles import console

if TYPE_CHECKING:
    from cape.manifest import ParityEntry
    from export.repository import Exported


def destination(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --output, --force, --add and --triton-device."""
    options = (
        click.option("--output", required=required, type=click.Path(path_type=Path), help="Repository to write."),
        click.option("--force", is_flag=True, callback=_not_both, help="Replace an existing repository."),
        click.option(
            "--add",
            is_flag=True,
            callback=_not_both,
            help="Add the system to an existing repository; equal components are shared.",
        ),
        click.option(
            "--triton-device",
            type=click.Choice(["auto", "cpu", "gpu"]),
            default="auto",
            show_default=True,
            help="Where Triton runs the models; auto: on every GPU, else on the CPU.",
        ),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _not_both(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    other = "add" if parameter.name == "force" else "force"
    if value and context.params.get(other):
        raise click.UsageError("give one of --add and --force")
    return value


def finished(exported: Exported, output: Path, more: Sequence[Table] = ()) -> None:
    """Prints what was measured, and how to serve what was written."""
    for table in (parity_table(exported), *more):
        console().print(table)
    console(stderr=True).print(
        f"Wrote {output}. Serve it: capeserve serve --repository {output}, or with Triton: capeserve triton"
    )


def parity_table(exported: Exported) -> Table:
    """The largest and the 99.9th percentile difference from PyTorch, per output."""
    name = exported.system
    system = exported.manifest.systems[name]
    table = Table(
        title=f"ONNX Runtime against PyTorch float32: {name}, {system.backbone}, "
        f"{system.parameters / 1e6:.3f} M parameters",
        caption="Keypoints and proposals are fractions of the crop. "
        f"Left out, because two peaks are equal up to rounding: {exported.ties} keypoints.",
    )
    add_parity(table, system.parity)
    return table


def add_parity(table: Table, parity: Sequence[ParityEntry]) -> None:
    """Adds a table row for each output that was compared."""
    table.add_column("output")
    for heading in ("cases", "largest", "99.9 %", "spread of the output"):
        table.add_column(heading, justify="right")
    for entry in parity:
        table.add_row(entry.output, str(entry.cases), f"{entry.largest:.1e}", f"{entry.p999:.1e}", f"{entry.scale:.2g}")
