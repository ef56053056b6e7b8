"""`capeserve export` of a CapeLLM checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.table import Table

from cli.consoles import step_progress

if TYPE_CHECKING:
    from cape.capellm.configuration import Readout
    from export.capellm.weights import WeightsCost
    from export.repository import Exported
    from export.triton.options import TritonOptions
    from export.weights import Weights

NOT_FOR_CAPELLM = (
    "system",
    "text_encoder",
    "shot_visibility",
    "tokenizer",
    "edition",
    "targets",
    "precision",
    "strip_weights",
    "triton_accelerator",
)
"""Parameters of the command that mean nothing for a CapeLLM."""

ONLY_FOR_CAPELLM = ("readout", "weights", "weights_tolerance", "vllm")

NOT_WITH_VLLM = ("readout", "weights", "weights_tolerance", "force", "add", "triton_device")


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


def export_capellm(
    checkpoint: Path,
    output: Path,
    readout: Readout,
    weights: Weights,
    weights_tolerance: float | None,
    triton: TritonOptions,
    *,
    force: bool,
    add: bool,
) -> Exported:
    """Exports it; what goes wrong ends the command with a clear message."""
    if weights == "float32":
        refuse_given(("weights_tolerance",), "only with --weights int8 or int4")
    refuse_given(NOT_FOR_CAPELLM, f"{checkpoint} is a CapeLLM, for which there is no such choice")
    try:
        from cape.checkpoints import CheckpointError
        from cape.models.capellm.checkpoint import load_capellm
        from export.capellm.repository import export_capellm_repository
        from export.capellm.weights import TOLERANCE
        from export.graph import ExportError
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[llm]'") from None
    try:
        with step_progress() as progress:
            progress("loading", 0, 1)
            return export_capellm_repository(
                load_capellm(checkpoint),
                output,
                readout=readout,
                weights=weights,
                weights_tolerance=TOLERANCE if weights_tolerance is None else weights_tolerance,
                triton=triton,
                force=force,
                add=add,
                progress=progress,
            )
    except (CheckpointError, ExportError) as error:
        raise click.ClickException(str(error)) from None


def export_vllm(checkpoint: Path, output: Path) -> None:
    """Writes a CapeLLM for vLLM, and says how it is used; what goes wrong ends the command with a clear message."""
    refuse_given(NOT_FOR_CAPELLM, f"{checkpoint} is a CapeLLM, for which there is no such choice")
    refuse_given(NOT_WITH_VLLM, "not with --vllm")
    try:
        from cape.checkpoints import CheckpointError
        from cape.models.capellm.checkpoint import load_capellm
        from cape.models.capellm.vllm import MODEL
        from export.capellm.vllm import export_vllm
        from export.graph import ExportError
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[llm]'") from None
    try:
        language, prompter = export_vllm(load_capellm(checkpoint), output)
    except (CheckpointError, ExportError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"Wrote {output}. Serve and ask it:\n"
        f"  vllm serve {language} --served-model-name {MODEL} --enable-prompt-embeds --enable-prefix-caching\n"
        f"  capeserve evaluate --vllm http://localhost:8000 --checkpoint {prompter} --data synthetic --shots 0",
        err=True,
    )


def weights_table(cost: WeightsCost) -> Table:
    """What rounded weights change, beside float32."""
    answers = cost.answers
    table = Table(
        title=f"{answers.weights} weights against float32, {answers.answers} answers",
        caption=f"A mean distance of {answers.tolerance:g} of the crop is let pass. Times are of this machine, both in "
        "turns.",
    )
    table.add_column("")
    table.add_column("float32", justify="right")
    table.add_column(answers.weights, justify="right")
    for row in (
        ("graphs, MiB", f"{cost.float32_bytes / 2**20:.1f}", f"{cost.bytes / 2**20:.1f}"),
        ("an image's keypoints, ms", f"{cost.float32_seconds * 1e3:.1f}", f"{cost.seconds * 1e3:.1f}"),
        ("equal answers", "", f"{answers.equal_answers:.1%}"),
        ("equal digit tokens", "", f"{answers.equal_tokens:.1%}"),
        ("mean distance of keypoints", "", f"{answers.mean_distance:.4f}"),
        ("largest", "", f"{answers.largest_distance:.4f}"),
    ):
        table.add_row(*row)
    return table
