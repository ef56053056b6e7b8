"""A checkpoint → an exported repository, whole or not at all."""

from __future__ import annotations

import datetime
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import onnx
from tokenizers import Tokenizer

import cape
from cape.checkpoints import Checkpoint
from cape.configuration import SystemConfiguration
from cape.manifest import (
    MANIFEST_NAME,
    MODEL_FILE,
    ComponentManifest,
    Manifest,
    ParityEntry,
    Role,
    SourceManifest,
    SystemManifest,
    TextEncoderManifest,
)
from cape.modalities import modality_rule
from export.add_system import add_system, check_addition
from export.components import MAX_BATCH_SIZE, Component, components
from export.graph import EXTERNAL_DATA_FROM, ExportError, graph_digest, write_graph
from export.parity import (
    CHAIN_SIZES,
    KEYPOINT_TOLERANCE,
    Differences,
    Runtime,
    compare_chain,
    compare_component,
)
from export.triton.configurations import write_configurations
from export.triton.options import TritonOptions
from export.variants import Variants, write_gpu_variants

if TYPE_CHECKING:
    from export.capellm.weights import WeightsCost

KEYPOINT_BUCKETS = (24, 48, 72, 100)
"""Keypoint counts that supports are padded to: few, so that requests of different supports share a batch and an
engine that compiles per shape compiles few; 24 costs 2 % more than 17, beside 256 image tokens."""

MAX_SHOTS = 16

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""


class Exported(NamedTuple):
    """What an export made.

    Attributes:
        manifest: as written.
        system: the one that was exported.
        ties: keypoints that parity left out because PyTorch's own answer is undefined up to rounding.
        weights: what rounding a language model's weights cost; None where they are float32.
    """

    manifest: Manifest
    system: str
    ties: int
    weights: WeightsCost | None = None


def export_repository(
    checkpoint: Checkpoint,
    output: Path,
    *,
    force: bool = False,
    add: bool = False,
    triton: TritonOptions = TritonOptions(),  # noqa: B008 (immutable)
    external_data_from: int = EXTERNAL_DATA_FROM,
    gpu_graphs: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> Exported:
    """Exports a checkpoint, proves it against PyTorch, and writes the repository.

    Args:
        checkpoint: as `load_checkpoint` returns it; its system cannot be trained afterwards.
        output: folder of the repository; must not exist, or be empty, unless `force`.
        force: replace what is there, in one step, once the new repository is proven.
        add: keep the systems that are there; the repository then serves them all.
        triton: how Triton is to run the models.
        external_data_from: bytes of weights from which a graph keeps them in a file beside it.
        gpu_graphs: also write the graphs of `export.variants` that suit GPUs.
        progress: called at every step.

    Raises:
        ExportError: the output is there already (with `add`: is not there, or has the system), the options for
            Triton make no sense, a graph is not valid, or its keypoints are further from
            PyTorch's than 1e-4 of the crop. Nothing is written then.
    """

    def write(folder: Path) -> Exported:
        return _write(checkpoint, folder, external_data_from, gpu_graphs, progress)

    return put_repository(write, checkpoint.system.configuration.system, output, force=force, add=add, triton=triton)


def put_repository(
    write: Callable[[Path], Exported], system: str, output: Path, *, force: bool, add: bool, triton: TritonOptions
) -> Exported:
    """Has a repository written beside its place, and puts it there once it is whole.

    Args:
        write: writes a repository of one system into a folder that is there and empty.
        system: its name.
        output, force, add, triton: see `export_repository`.

    Raises:
        ExportError: as `export_repository`, and what `write` raises.
    """
    if problem := triton.problem():
        raise ExportError(problem)
    if add:
        check_addition(output, system)
    else:
        check_output(output, force)
    with written_whole(output) as partial:
        exported = write(partial)
        if add:
            exported = exported._replace(manifest=add_system(output, partial))
        write_configurations(partial, exported.manifest, triton)
    return exported


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """A folder beside a repository's place, which takes that place in one step when the block is left without an error.

    With an error nothing of it stays, and what was there does.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        yield partial
        partial.chmod(0o755)
        _put_in_place(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_output(output: Path, force: bool) -> None:
    """Checks that a repository may be written there, before the long work.

    Raises:
        ExportError: something is there already, and `force` is not given.
    """
    if output.exists() and not force and (not output.is_dir() or any(output.iterdir())):
        raise ExportError(f"{output} is there already; --force replaces it")


def _put_in_place(partial: Path, output: Path) -> None:
    """Moves a finished repository to its place in one step, in place of what is there."""
    if output.is_dir() and any(output.iterdir()):
        old = Path(tempfile.mkdtemp(prefix=f".{output.name}.old-", dir=output.parent))
        output.rename(old / "repository")
        partial.rename(output)
        shutil.rmtree(old)
    else:
        partial.rename(output)


def _write(
    checkpoint: Checkpoint, folder: Path, external_data_from: int, gpu_graphs: bool, progress: Progress
) -> Exported:
    system, configuration = checkpoint.system, checkpoint.system.configuration
    parameters = sum(p.numel() for p in system.parameters())
    parts = components(system)
    steps = (2 + gpu_graphs) * len(parts) + 2 * len(CHAIN_SIZES)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        progress(what, done, steps)
        done += 1

    graphs: dict[Role, Path] = {}
    for part in parts:
        step(f"tracing {part.role}")
        graphs[part.role] = folder / part.role / MODEL_FILE
        graphs[part.role].parent.mkdir(parents=True)
        write_graph(part, graphs[part.role], external_data_from)
    text = _write_tokenizer(configuration, checkpoint.tokenizer, folder)
    differences, runtime = Differences(), Runtime(graphs)
    for part in parts:
        step(f"comparing {part.role}")
        compare_component(part, runtime, differences)
    step("comparing the whole chain")
    for _ in compare_chain(system, runtime, checkpoint.tokenizer, differences):
        step("comparing the whole chain")
    parity = differences.entries()
    require_parity(parity)
    # Last: it leaves the system with operators that PyTorch cannot run.
    variants = write_gpu_variants(system, parts, graphs, folder, step) if gpu_graphs else {}
    progress("done", steps, steps)
    manifest = _manifest(checkpoint, parts, graphs, variants, text, parity, parameters)
    (folder / MANIFEST_NAME).write_text(manifest.with_scheduling().model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Exported(manifest, configuration.system, differences.ties)


def require_parity(parity: tuple[ParityEntry, ...]) -> None:
    """Refuses an export whose keypoints are not PyTorch's.

    Raises:
        ExportError: naming the output.
    """
    for entry in parity:
        if entry.output.endswith(".keypoints") and not entry.largest <= KEYPOINT_TOLERANCE:
            raise ExportError(
                f"{entry.output} is {entry.largest:.2e} of the crop away from PyTorch, "
                f"more than {KEYPOINT_TOLERANCE:.0e}: nothing was written"
            )


def now() -> str:
    """As a manifest has it: UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def keypoint_buckets(max_keypoints: int) -> tuple[int, ...]:
    """The numbers of keypoints that supports are padded to, for models of so many at most."""
    return (*(size for size in KEYPOINT_BUCKETS if size < max_keypoints), max_keypoints)


def _write_tokenizer(
    configuration: SystemConfiguration, tokenizer: Path | None, folder: Path
) -> TextEncoderManifest | None:
    if configuration.text is None:
        return None
    if tokenizer is None:
        raise ExportError(f"{configuration.text.name} needs a tokenizer")
    encoder = Tokenizer.from_file(str(tokenizer))
    if encoder.get_vocab_size() > configuration.text.architecture["vocab_size"]:
        raise ExportError(
            f"{tokenizer}: {encoder.get_vocab_size()} tokens, but {configuration.text.name} "
            f"embeds {configuration.text.architecture['vocab_size']}"
        )
    # Beside the versions of its model, where Triton looks for nothing else.
    relative = Path("text_encoder") / "tokenizer.json"
    shutil.copyfile(tokenizer, folder / relative)
    return TextEncoderManifest(
        kind=configuration.text.kind,
        name=configuration.text.name,
        dimension=configuration.text.dimension,
        max_tokens=configuration.text.max_tokens,
        tokenizer=str(relative),
        tokenizer_sha256=hashlib.sha256((folder / relative).read_bytes()).hexdigest(),
        pad_token_id=int(configuration.text.architecture.get("pad_token_id") or 0),
    )


def _manifest(
    checkpoint: Checkpoint,
    parts: list[Component],
    graphs: Mapping[Role, Path],
    variants: Variants,
    text: TextEncoderManifest | None,
    parity: tuple[ParityEntry, ...],
    parameters: int,
) -> Manifest:
    configuration = checkpoint.system.configuration
    described = {}
    for part in parts:
        digest, size = graph_digest(graphs[part.role])
        described[part.role] = ComponentManifest(
            inputs=part.inputs,
            outputs=part.outputs,
            max_batch_size=MAX_BATCH_SIZE[part.role],
            sha256=digest,
            bytes=size,
            parameters=part.parameters,
            operators=len(onnx.load(str(graphs[part.role]), load_external_data=False).graph.node),
            variants=variants.get(part.role, {}),
        )
    return Manifest(
        capeserve_version=cape.__version__,
        created=now(),
        image_size=configuration.backbone.image_size,
        box_padding=configuration.box_padding,
        max_keypoints=configuration.max_keypoints,
        keypoint_buckets=keypoint_buckets(configuration.max_keypoints),
        max_shots=MAX_SHOTS,
        components=described,
        systems={
            configuration.system: SystemManifest(
                components={part.role: part.role for part in parts},
                backbone=configuration.backbone.name,
                backbone_channels=configuration.backbone.channels,
                feature_size=configuration.backbone.feature_size,
                similarity_size=configuration.head.similarity_size,
                model_width=configuration.head.width,
                pathways=configuration.pathways,
                modalities=modality_rule(configuration),
                text_encoder=text,
                parameters=parameters,
                parity=parity,
            )
        },
        source=SourceManifest(
            checkpoint=checkpoint.source.name, sha256=checkpoint.sha256, trained=configuration.trained
        ),
    )
