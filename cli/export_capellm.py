"""`capeserve export` of a CapeLLM checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from cli.consoles import step_progress

if TYPE_CHECKING:
    from cape.capellm.configuration import Readout
    from export.repository import Exported

NOT_FOR_CAPELLM = (
    "system",
    "text_encoder",
    "shot_visibility",
    "tokenizer",
    "edition",
    "targets",
    "precision",
    "strip_weights",
    "triton_device",
    "triton_accelerator",
)
"""Parameters of the command that mean nothing for a CapeLLM."""

ONLY_FOR_CAPELLM = ("readout",)


def refuse_given(names: tuple[str, ...], reason: str) -> None:
    """Refuses options that were given.

    Raises:
        click.UsageError: naming the first one.
    """
    context = click.get_current_context()
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in names:
        if context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None):
            raise click.UsageError(f"{flags[name]}: {reason}")


def export_capellm(checkpoint: Path, output: Path, readout: Readout, *, force: bool, add: bool) -> Exported:
    """Exports it; what goes wrong ends the command with a clear message."""
    refuse_given(NOT_FOR_CAPELLM, f"{checkpoint} is a CapeLLM, for which there is no such choice")
    try:
        from cape.checkpoints import CheckpointError
        from cape.models.capellm.checkpoint import load_capellm
        from export.capellm_repository import export_capellm_repository
        from export.graph import ExportError
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[llm]'") from None
    try:
        with step_progress() as progress:
            progress("loading", 0, 1)
            return export_capellm_repository(
                load_capellm(checkpoint), output, readout=readout, force=force, add=add, progress=progress
            )
    except (CheckpointError, ExportError) as error:
        raise click.ClickException(str(error)) from None
