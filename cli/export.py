"""`capeserve export`: from a checkpoint to a repository that the service and Triton read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.table import Table

from cape.capellm.configuration import is_capellm
from cli.consoles import console, step_progress
from cli.export_capellm import ONLY_FOR_CAPELLM, export_capellm, export_vllm, refuse_given, weights_table

if TYPE_CHECKING:
    from cape.capellm.configuration import Readout
    from cape.configuration import SystemName
    from cape.manifest import ParityEntry
    from export.precision import Precision
    from export.repository import Exported
    from export.tensorrt.editions import EditionName
    from export.tensorrt.engines import BuiltEngine, EngineRequest
    from export.triton.options import Accelerator, Device
    from export.weights import Weights

PUBLISHED_SUFFIXES = (".pth", ".pt", ".ckpt")


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Folder with config.json and model.safetensors, CapeLLM's too, or a published GraphCape, CapeX or CapeFormer "
    ".pth file.",
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
@click.option(
    "--tensorrt",
    "edition",
    is_flag=False,
    flag_value="standard",
    type=click.Choice(["standard", "rtx"]),
    help="Build TensorRT engines too: for the card in this machine (no value), or with TensorRT for RTX for the cards "
    "of --target, which need not be here (rtx).",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="smXX",
    help="With --tensorrt rtx: compute capability to build for; repeatable. sm86 is the paper's RTX 3060.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float16",
    show_default=True,
    help="With --tensorrt: of matrix products and convolutions; what keypoints are read off stays in float32.",
)
@click.option("--strip-weights", is_flag=True, help="With --tensorrt: leave the weights out of the engines.")
@click.option(
    "--readout",
    type=click.Choice(["greedy", "expectation"]),
    default="greedy",
    show_default=True,
    help="For a CapeLLM: keypoints are the most probable digits, or the mean over digits.",
)
@click.option(
    "--weights",
    type=click.Choice(["float32", "int8", "int4"]),
    default="float32",
    show_default=True,
    help="For a CapeLLM: how the weights of products are stored; compared with float32.",
)
@click.option(
    "--weights-tolerance",
    type=click.FloatRange(min=0),
    help="With --weights: mean distance from float32's keypoints, fraction of the crop, that is let pass.  "
    "[default: 0.02]",
)
@click.option(
    "--vllm",
    is_flag=True,
    help="For a CapeLLM: instead of a repository, write its language model as a folder for vLLM, and beside it what "
    "makes the prompts.",
)
@click.option(
    "--gpu-graphs",
    is_flag=True,
    help="Also write graphs for GPUs: fused attention, in float32 and in float16. The server picks them by itself.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the repository to write.")
@click.option("--force", is_flag=True, help="Replace the repository that is there.")
@click.option("--add", is_flag=True, help="Add the system to the repository that is there; equal towers are shared.")
@click.option(
    "--triton-device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where Triton runs the models; auto: on every GPU, or on the CPU where there is none.",
)
@click.option(
    "--triton-accelerator",
    type=click.Choice(["none", "openvino", "tensorrt"]),
    default="none",
    show_default=True,
    help="What Triton's ONNX Runtime hands the graphs to, on CPUs (openvino) or GPUs (tensorrt).",
)
def export(
    checkpoint: Path | None,
    system: SystemName | None,
    text_encoder: Path | None,
    shot_visibility: Literal["all", "any"],
    untrained: Path | None,
    tokenizer: Path | None,
    edition: EditionName | None,
    targets: tuple[str, ...],
    precision: Precision,
    strip_weights: bool,
    readout: Readout,
    weights: Weights,
    weights_tolerance: float | None,
    vllm: bool,
    gpu_graphs: bool,
    output: Path,
    force: bool,
    add: bool,
    triton_device: Device,
    triton_accelerator: Accelerator,
) -> None:
    """Exports a checkpoint to ONNX, one graph a component, and proves it against PyTorch.

    Every component and the whole chain run in ONNX Runtime and in PyTorch float32, on random and on real inputs,
    at several batch sizes, keypoint counts and shots. An export whose keypoints differ by more than 1e-4 of the
    crop fails and leaves nothing behind. A CapeLLM's greedy answers must be PyTorch's token for token, and with
    rounded weights not further from those than the tolerance says.
    """
    if (checkpoint is None) == (untrained is None):
        raise click.UsageError("give one of --checkpoint and --untrained")
    if add and force:
        raise click.UsageError("give one of --add and --force")
    if checkpoint is not None and is_capellm(checkpoint):
        from export.triton.options import TritonOptions

        if vllm:
            export_vllm(checkpoint, output)
            return
        triton = TritonOptions(triton_device)
        exported = export_capellm(checkpoint, output, readout, weights, weights_tolerance, triton, force=force, add=add)
        _done(exported, output, (weights_table(exported.weights),) if exported.weights else ())
        return
    refuse_given(ONLY_FOR_CAPELLM, "only for a CapeLLM checkpoint")
    try:
        from cape.checkpoints import CheckpointError, load_checkpoint, untrained_checkpoint
        from cape.configuration import ConfigurationError
        from cape.published import open_published
        from cape.published_layouts import PublishedCheckpointError
        from cape.towers import TowerError
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
            options = TritonOptions(triton_device, triton_accelerator)
            exported = export_repository(
                source, output, force=force, add=add, triton=options, gpu_graphs=gpu_graphs, progress=progress
            )
            if request is not None:
                built = build_engines(output, request, progress=progress)
                serve_plans(output, built, request, options)
                progress("comparing the precision with float32", 0, 1)
                parity = engine_parity(source, output, built, request)
    except (CheckpointError, ConfigurationError, ExportError, PublishedCheckpointError, TowerError) as error:
        raise click.ClickException(str(error)) from None
    _done(exported, output, engine_tables(built, request, parity) if request is not None else ())


def _done(exported: Exported, output: Path, more: Sequence[Table] = ()) -> None:
    """Says what was measured, and what to do with what was written."""
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
    _add_parity(table, system.parity)
    return table


def engine_tables(
    built: Sequence[BuiltEngine], request: EngineRequest, parity: Sequence[ParityEntry]
) -> tuple[Table, Table]:
    """What was built, and how far its precision moves the answers."""
    engines = Table(title=f"TensorRT engines, {', '.join(request.targets) or 'this card'}")
    for heading in ("component", "MiB", "profiles", "products in half precision", "in float32"):
        engines.add_column(heading, justify="left" if heading == "component" else "right")
    for engine in built:
        products = engine.engine.products
        kept = products.get("FLOAT", 0)
        size = f"{len(engine.engine.plan) / 2**20:.1f}"
        row = (engine.component, size, str(len(engine.profiles)), str(sum(products.values()) - kept), str(kept))
        engines.add_row(*row)
    how = "the engines on this card" if request.edition == "standard" else "rounding emulated on the CPU"
    precision = Table(title=f"{request.precision} against PyTorch float32, {how}")
    _add_parity(precision, parity)
    return engines, precision


def _add_parity(table: Table, parity: Sequence[ParityEntry]) -> None:
    table.add_column("output")
    for heading in ("cases", "largest", "99.9 %", "spread of the output"):
        table.add_column(heading, justify="right")
    for entry in parity:
        table.add_row(entry.output, str(entry.cases), f"{entry.largest:.1e}", f"{entry.p999:.1e}", f"{entry.scale:.2g}")
