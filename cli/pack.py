"""`capeserve pack`: a smaller checkpoint for distribution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", type=_FOLDER, required=True, help="Folder of the packed checkpoint.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    default="float16",
    show_default=True,
    help="Precision of the stored weights; computation stays in float32.",
)
def pack(checkpoint: Path, output: Path, dtype: str) -> None:
    """Store a checkpoint in half precision, without encoders that installed packages contain."""
    import torch

    from cape.capellm.configuration import is_capellm
    from cape.checkpoints import WEIGHTS_FILE, CheckpointError, load_checkpoint, save_checkpoint

    if output.resolve() == checkpoint.resolve():
        raise click.ClickException("--output: the checkpoint's own folder; choose another")
    stored: torch.dtype = getattr(torch, dtype)
    try:
        if is_capellm(checkpoint):
            _pack_capellm(checkpoint, output, stored)
        else:
            loaded = load_checkpoint(checkpoint)
            _check_range(loaded.system, stored)
            own = (checkpoint / "tokenizer.json").exists()
            save_checkpoint(loaded.system, output, loaded.tokenizer if own else None, stored)
    except (CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from None
    size = (output / WEIGHTS_FILE).stat().st_size
    click.echo(f"{output / WEIGHTS_FILE}: {size / 1e6:.1f} MB")


def _pack_capellm(checkpoint: Path, output: Path, stored: torch.dtype) -> None:
    try:
        from cape.models.capellm.checkpoint import load_capellm, save_capellm
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[llm]'") from None
    loaded = load_capellm(checkpoint)
    _check_range(loaded.model, stored)
    save_capellm(loaded.model, output, loaded.tokenizer.tokenizer, stored)


def _check_range(model: torch.nn.Module, stored: torch.dtype) -> None:
    """Ends the command if a weight overflows."""
    import torch

    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value.to(stored)).all():
            dtype = str(stored).removeprefix("torch.")
            raise click.ClickException(f"{name}: {dtype} cannot hold its values")
