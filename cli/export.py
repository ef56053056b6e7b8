"""`capeserve export`: from a checkpoint to a repository that the service and Triton read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.table import Table

from cli.consoles import console, step_progress

if TYPE_CHECKING:
    from cape.configuration import SystemName
    from export.repository import Exported

PUBLISHED_SUFFIXES = (".pth", ".pt", ".ckpt")


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Folder with config.json and model.safetensors, or a published GraphCape, CapeX or CapeFormer .pth file.",
)
@click.option(
    "--system",
    type=click.Choice(["capex", "graphcape", "capeformer"]),
    help="What the .pth file is; recognised where not given.",
)
@click.option(
    "--text-encoder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Hugging Face folder of the text encoder, where a .pth file brings none.",
)
@click.option(
    "--shot-visibility",
    type=click.Choice(["all", "any"]),
    default="all",
    show_default=True,
    help="For a .pth file: a keypoint counts when it is visible in all support images, as published, or in any.",
)
@click.option(
    "--untrained",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of a checkpoint: a configuration (JSON), with random weights. For measuring and load tests.",
)
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="tokenizer.json of the text encoder, where the checkpoint does not bring one.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the repository to write.")
@click.option("--force", is_flag=True, help="Replace the repository that is there.")
def export(
    checkpoint: Path | None,
    system: SystemName | None,
    text_encoder: Path | None,
    shot_visibility: Literal["all", "any"],
    untrained: Path | None,
    tokenizer: Path | None,
    output: Path,
    force: bool,
) -> None:
    """Exports a checkpoint to ONNX, one graph a component, and proves it against PyTorch.

    Every component and the whole chain run in ONNX Runtime and in PyTorch float32, on random and on real inputs,
    at several batch sizes, keypoint counts and shots. An export whose keypoints differ by more than 1e-4 of the
    crop fails and leaves nothing behind.
    """
    if (checkpoint is None) == (untrained is None):
        raise click.UsageError("give one of --checkpoint and --untrained")
    try:
        from cape.checkpoints import CheckpointError, load_checkpoint, untrained_checkpoint
        from cape.configuration import ConfigurationError
        from cape.published import open_published
        from cape.published_layouts import PublishedCheckpointError
        from cape.towers import TowerError
        from export.graph import ExportError
        from export.repository import export_repository
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[export]'") from None

    errors = console(stderr=True)
    try:
        with step_progress() as progress:
            progress("loading", 0, 1)
            if checkpoint is not None and checkpoint.suffix in PUBLISHED_SUFFIXES:
                source, recognised = open_published(
                    checkpoint,
                    system=system,
                    text_encoder=text_encoder,
                    tokenizer=tokenizer,
                    shot_visibility=shot_visibility,
                )
                errors.print(f"Recognised {recognised}")
            elif checkpoint is not None:
                source = load_checkpoint(checkpoint, tokenizer)
            else:
                assert untrained is not None
                source = untrained_checkpoint(untrained, tokenizer)
            exported = export_repository(source, output, force=force, progress=progress)
    except (CheckpointError, ConfigurationError, ExportError, PublishedCheckpointError, TowerError) as error:
        raise click.ClickException(str(error)) from None
    console().print(parity_table(exported))
    errors.print(f"Wrote {output}. Serve it: capeserve serve --repository {output}")


def parity_table(exported: Exported) -> Table:
    """The largest and the 99.9th percentile difference from PyTorch, per output."""
    manifest = exported.manifest
    name, system = next(iter(manifest.systems.items()))
    table = Table(
        title=f"ONNX Runtime against PyTorch float32: {name}, {system.backbone}, "
        f"{system.parameters / 1e6:.3f} M parameters",
        caption="Keypoints and proposals are fractions of the crop. "
        f"Left out, because two peaks are equal up to rounding: {exported.ties} keypoints.",
    )
    table.add_column("output")
    for heading in ("cases", "largest", "99.9 %", "spread of the output"):
        table.add_column(heading, justify="right")
    for entry in system.parity:
        table.add_row(entry.output, str(entry.cases), f"{entry.largest:.1e}", f"{entry.p999:.1e}", f"{entry.scale:.2g}")
    return table
