"""`capeserve pack`: a checkpoint small enough to hand on."""

from __future__ import annotations

from pathlib import Path

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", type=_FOLDER, required=True, help="Folder of the packed checkpoint; another one.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    default="float16",
    show_default=True,
    help="What weights are stored as; they are computed with in float32 all the same.",
)
def pack(checkpoint: Path, output: Path, dtype: str) -> None:
    """Store a checkpoint in half precision, without towers that installed packages hold."""
    import torch

    from cape.checkpoints import WEIGHTS_FILE, CheckpointError, load_checkpoint, save_checkpoint

    if output.resolve() == checkpoint.resolve():
        raise click.ClickException("--output: the checkpoint's own folder; choose another")
    try:
        loaded = load_checkpoint(checkpoint)
        state = loaded.system.state_dict()
        stored: torch.dtype = getattr(torch, dtype)
        beyond = [
            name
            for name, value in state.items()
            if value.is_floating_point() and not torch.isfinite(value.to(stored)).all()
        ]
        if beyond:
            raise click.ClickException(f"{beyond[0]}: {dtype} cannot hold its values")
        own = (checkpoint / "tokenizer.json").exists()
        save_checkpoint(loaded.system, output, loaded.tokenizer if own else None, stored)
    except (CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from None
    size = (output / WEIGHTS_FILE).stat().st_size
    click.echo(f"{output / WEIGHTS_FILE}: {size / 1e6:.1f} MB")
