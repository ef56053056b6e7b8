"""`capeserve export`: from a checkpoint to a model repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.table import Table

from cape.capellm.configuration import is_capellm
from cli.consoles import console, step_progress
from cli.export_capellm import capellm, vllm
from cli.export_options import add_parity, destination, finished

if TYPE_CHECKING:
    from cape.configuration import SystemName
    from cape.manifest import ParityEntry
    from export.precision import Precision
    from export.tensorrt.editions import EditionName
    from export.tensorrt.engines import BuiltEngine, EngineRequest
    from export.triton.options import Accelerator, Device

PUBLISHED_SUFFIXES = (".pth", ".pt", ".ckpt")


@click.group(invoke_without_command=True)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Folder with config.json and model.safetensors, or a published .pth file (GraphCape, CapeX or CapeFormer on "
    "Swin V2).",
)
@click.option(
    "--untrained",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of a checkpoint: a configuration (JSON), exported with random weights for load tests.",
)
@click.option(
    "--system",
    type=click.Choice(["capex", "graphcape", "capeformer"]),
    help="System of a .pth file.  [default: recognised from its keys]",
)
@click.option(
    "--text-encoder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Hugging Face folder of the text encoder, for a .pth file without one.",
)
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="tokenizer.json of the text encoder, for a checkpoint without one.",
)
@destination(required=False)
@click.option(
    "--triton-accelerator",
    type=click.Choice(["none", "openvino", "tensorrt"]),
    default="none",
    show_default=True,
    help="Execution provider of Triton's ONNX Runtime backend.",
)
@click.option(
    "--tensorrt",
    "edition",
    is_flag=False,
    flag_value="standard",
    type=click.Choice(["standard", "rtx"]),
    help="Build TensorRT engines too: for the GPU of this machine (no value), or for the RTX GPUs of --target (rtx).",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="smXX",
    help="With --tensorrt rtx: compute capability, repeatable. sm86 is the paper's RTX 3060.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float16",
    show_default=True,
    help="With --tensorrt: precision of matrix products and convolutions.",
)
@click.option("--strip-weights", is_flag=True, help="With --tensorrt: build engines without weights.")
@click.option(
    "--gpu-graphs",
    is_flag=True,
    help="Also write graphs for GPUs: fused attention, in float32 and in float16. The server picks them by itself.",
)
@click.pass_context
def export(
    context: click.Context,
    checkpoint: Path | None,
    untrained: Path | None,
    system: SystemName | None,
    text_encoder: Path | None,
    tokenizer: Path | None,
    output: Path | None,
    force: bool,
    add: bool,
    triton_device: Device,
    triton_accelerator: Accelerator,
    edition: EditionName | None,
    targets: tuple[str, ...],
    precision: Precision,
    strip_weights: bool,
    gpu_graphs: bool,
) -> None:
    """Export a checkpoint to a model repository: one ONNX graph a component, compared with PyTorch.

    Every component and the whole chain run in ONNX Runtime and in PyTorch float32, on random and on real inputs,
    at several batch sizes, keypoint counts and shots. The export fails, and writes nothing, if a keypoint differs by
    more than 1e-4 of the crop. `capellm` and `vllm` export CapeLLM checkpoints.
    """
    if context.invoked_subcommand is not None:
        if any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
            raise click.UsageError(f"options of {context.invoked_subcommand} follow its name")
        return
    if output is None:
        raise click.UsageError("Missing option '--output'.")
    if (checkpoint is None) == (untrained is None):
        raise click.UsageError("give one of --checkpoint and --untrained")
    if checkpoint is not None and is_capellm(checkpoint):
        raise click.UsageError(f"{checkpoint} is a CapeLLM checkpoint: use `capeserve export capellm`")
    try:
        from cape.checkpoints import CheckpointError, load_checkpoint, untrained_checkpoint
        from cape.configuration import ConfigurationError
        from cape.pretrained.packages import PretrainedError
        from cape.published.key_names import PublishedCheckpointError
        from cape.published.reading import open_published
        from export.graph import ExportError
        from export.repository import export_repository
        from export.tensorrt.engines import EngineRequest, build_engines, check_request, engine_parity, serve_plans
        from export.triton.options import TritonOptions
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[export]'") from None

    errors = console(stderr=True)
    request = EngineRequest(edition, targets, precision, strip_weights) if edition is not None else None
    try:
        if request is not None:
            check_request(request)
        with step_progress() as progress:
            progress("loading", 0, 1)
            if checkpoint is not None and checkpoint.suffix in PUBLISHED_SUFFIXES:
                source, recognised = open_published(
                    checkpoint, system=system, text_encoder=text_encoder, tokenizer=tokenizer
                )
                errors.print(f"Recognised {recognised}")
            elif checkpoint is not None:
                source = load_checkpoint(checkpoint, tokenizer)
            else:
                assert untrained is not None
                source = untrained_checkpoint(untrained, tokenizer)
            options = TritonOptions(triton_device, triton_accelerator)
            exported = export_repository(
                source, output, force=force, add=add, triton=options, gpu_graphs=gpu_graphs, progress=progress
            )
            if request is not None:
                built = build_engines(output, request, progress=progress)
                serve_plans(output, built, request, options)
                progress("comparing the precision with float32", 0, 1)
                parity = engine_parity(source, output, built, request)
    except (CheckpointError, ConfigurationError, ExportError, PublishedCheckpointError, PretrainedError) as error:
        raise click.ClickException(str(error)) from None
    finished(exported, output, engine_tables(built, request, parity) if request is not None else ())


export.add_command(capellm)
export.add_command(vllm)


def engine_tables(
    built: Sequence[BuiltEngine], request: EngineRequest, parity: Sequence[ParityEntry]
) -> tuple[Table, Table]:
    """Tables of the built engines and of the cost of their precision."""
    engines = Table(title=f"TensorRT engines, {', '.join(request.targets) or 'this GPU'}")
    for heading in ("component", "MiB", "profiles", "products in half precision", "in float32"):
        engines.add_column(heading, justify="left" if heading == "component" else "right")
    for engine in built:
        products = engine.engine.products
        kept = products.get("FLOAT", 0)
        size = f"{len(engine.engine.plan) / 2**20:.1f}"
        row = (engine.component, size, str(len(engine.profiles)), str(sum(products.values()) - kept), str(kept))
        engines.add_row(*row)
    how = "the engines on this GPU" if request.edition == "standard" else "rounding emulated on the CPU"
    precision = Table(title=f"{request.precision} against PyTorch float32, {how}")
    add_parity(precision, parity)
    return engines, precision
