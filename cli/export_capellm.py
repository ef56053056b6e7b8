"""`capeserve export capellm` and `capeserve export vllm`: a CapeLLM checkpoint for this service, or for vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from cli.consoles import step_progress
from cli.export_options import destination, finished

if TYPE_CHECKING:
    from cape.capellm.configuration import Readout
    from export.capellm.weights import WeightsCost
    from export.triton.options import Device
    from export.weights import Weights

CHECKPOINT = click.option(
    "--checkpoint",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a CapeLLM checkpoint.",
)


@click.command()
@CHECKPOINT
@destination(required=True)
@click.option(
    "--readout",
    type=click.Choice(["greedy", "expectation"]),
    default="greedy",
    show_default=True,
    help="Coordinates are the most probable digits, or the mean over digits.",
)
@click.option(
    "--weights",
    type=click.Choice(["float32", "int8", "int4"]),
    default="float32",
    show_default=True,
    help="Precision in which the weights of matrix products are stored.",
)
@click.option(
    "--weights-tolerance",
    type=click.FloatRange(min=0),
    help="With int8 or int4: mean distance from float32's keypoints that is accepted, as a fraction of the crop.  "
    "[default: 0.02]",
)
def capellm(
    checkpoint: Path,
    output: Path,
    force: bool,
    add: bool,
    triton_device: Device,
    readout: Readout,
    weights: Weights,
    weights_tolerance: float | None,
) -> None:
    """Export a CapeLLM checkpoint to a model repository.

    The exported model's greedy answers must equal PyTorch's token for token. With int8 or int4 weights they may
    differ, within --weights-tolerance.
    """
    if weights == "float32" and weights_tolerance is not None:
        raise click.UsageError("--weights-tolerance: only with --weights int8 or int4")
    try:
        from cape.checkpoints import CheckpointError
        from cape.models.capellm.checkpoint import load_capellm
        from export.capellm.repository import export_capellm_repository
        from export.capellm.weights import TOLERANCE
        from export.graph import ExportError
        from export.triton.options import TritonOptions
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[llm]'") from None
    try:
        with step_progress() as progress:
            progress("loading", 0, 1)
            exported = export_capellm_repository(
                load_capellm(checkpoint),
                output,
                readout=readout,
                weights=weights,
                weights_tolerance=TOLERANCE if weights_tolerance is None else weights_tolerance,
                triton=TritonOptions(triton_device),
                force=force,
                add=add,
                progress=progress,
            )
    except (CheckpointError, ExportError) as error:
        raise click.ClickException(str(error)) from None
    finished(exported, output, (weights_table(exported.weights),) if exported.weights else ())


@click.command()
@CHECKPOINT
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def vllm(checkpoint: Path, output: Path) -> None:
    """Write a CapeLLM checkpoint for vLLM: its language model, and beside it what makes the prompts."""
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
        f"Wrote {output}. Serve and query it:\n"
        f"  vllm serve {language} --served-model-name {MODEL} --enable-prompt-embeds --enable-prefix-caching\n"
        f"  capeserve evaluate --vllm http://localhost:8000 --checkpoint {prompter} --data synthetic --shots 0",
        err=True,
    )


def weights_table(cost: WeightsCost) -> Table:
    """The cost of reduced weights, beside float32."""
    answers = cost.answers
    table = Table(
        title=f"{answers.weights} weights against float32, {answers.answers} answers",
        caption=f"A mean distance of {answers.tolerance:g} of the crop is accepted. "
        "Both were timed on this machine, interleaved.",
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
