"""The engines of a whole repository: one a component, beside its graph, with a report of what each is.

Engines of TensorRT for RTX go to `<component>/tensorrt_rtx/<targets>-<precision>.engine`, where Triton looks for
nothing; those of TensorRT proper to `<component>/1/model.plan`, which its `tensorrt` backend serves.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from cape.checkpoints import Checkpoint
from cape.manifest import MODEL_FILE, Manifest, ParityEntry, Role, read_manifest
from export.graph import ExportError
from export.parity import Differences, Runtime, compare_chain
from export.precision import Precision, lower_precision
from export.tensorrt.build import BuildOptions, Engine, build_engine
from export.tensorrt.editions import EDITIONS, EditionName, compute_capabilities, load_bindings
from export.tensorrt.profiles import Profile, profiles
from export.tensorrt.runtime import EngineRuntime
from export.triton.configurations import write_configurations
from export.triton.options import TritonOptions

TIMING_CACHE = "tensorrt.timing-cache"
"""Beside the repository's manifest: what TensorRT proper measured, so that the next build takes seconds."""

PLAN = "1/model.plan"


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine on disk.

    Attributes:
        component: whose it is.
        path: the engine.
        engine: what went into it.
        profiles: the shapes that it takes.
    """

    component: str
    path: Path
    engine: Engine
    profiles: tuple[Profile, ...]


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What to build.

    Attributes:
        edition: of TensorRT.
        targets: compute capabilities, "sm86"; none for TensorRT proper, which builds for the card in the machine.
        precision: of products, see `export.precision`.
        strip_weights: leave the weights out of the engines.
    """

    edition: EditionName
    targets: tuple[str, ...] = ()
    precision: Precision = "float16"
    strip_weights: bool = False

    def path(self, repository: Path, component: str) -> Path:
        """Where a component's engine goes."""
        if self.edition == "standard":
            return repository / component / PLAN
        return repository / component / "tensorrt_rtx" / f"{'-'.join(self.targets)}-{self.precision}.engine"


def check_request(request: EngineRequest) -> None:
    """Finds out whether engines can be built, before an export that takes minutes.

    Raises:
        ExportError: the edition is not installed or cannot build for a target.
    """
    edition = EDITIONS[request.edition]
    compute_capabilities(edition, load_bindings(edition), request.targets)


def build_engines(
    repository: Path,
    request: EngineRequest,
    *,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> list[BuiltEngine]:
    """Builds an engine for every component of an exported repository.

    Args:
        repository: as `export_repository` wrote it.
        request: what to build.
        progress: told about every step.

    Raises:
        ExportError: the edition is not installed or cannot build for a target, or a build fails; names the component.
            Engines that were there before stay as they were.
    """
    edition = EDITIONS[request.edition]
    bindings = load_bindings(edition)
    capabilities = compute_capabilities(edition, bindings, request.targets)
    manifest = read_manifest(repository)
    cache_file = repository / TIMING_CACHE if request.edition == "standard" else None
    cache = None if cache_file is None else cache_file.read_bytes() if cache_file.exists() else b""
    built: list[BuiltEngine] = []
    roles = _roles(manifest)
    for done, (component, (role, max_tokens)) in enumerate(roles.items()):
        progress(f"building {component} for {', '.join(request.targets) or 'this card'}", done, len(roles))
        found = profiles(role, manifest.components[component], manifest, max_tokens)
        graph = onnx.load(repository / component / MODEL_FILE)
        lowered = lower_precision(graph, request.precision)
        options = BuildOptions(capabilities, request.strip_weights, cache)
        try:
            engine = build_engine(bindings, lowered.model.SerializeToString(), found, options)
        except ExportError as error:
            hint = " (without a CUDA driver it cannot leave weights out)" if request.strip_weights else ""
            raise ExportError(f"{component}: {error}{hint}") from None
        cache = engine.timing_cache
        path = request.path(repository, component)
        _write(path, engine.plan)
        report = _report(component, request, engine, found, manifest, bindings, lowered.kept)
        _write(path.with_suffix(".json"), (json.dumps(report, indent=2) + "\n").encode())
        if cache_file is not None and cache:
            _write(cache_file, cache)
        built.append(BuiltEngine(component, path, engine, found))
    progress("done", len(roles), len(roles))
    return built


def serve_plans(repository: Path, built: Sequence[BuiltEngine], request: EngineRequest, options: TritonOptions) -> None:
    """Makes Triton serve plans that lie where its `tensorrt` backend finds them; other engines change nothing.

    Args:
        repository: what they were built for.
        built: all of them.
        request: what they were built as. Plans without weights cannot be served as they are.
        options: how Triton runs what has no plan.
    """
    if request.edition != "standard" or request.strip_weights:
        return
    plans = {engine.component: len(engine.profiles) for engine in built}
    write_configurations(repository, read_manifest(repository), options, plans)


def emulated_parity(checkpoint: Checkpoint, repository: Path, precision: Precision) -> tuple[ParityEntry, ...]:
    """How far half-precision products move the answers, measured without a card: see `lower_precision`.

    Args:
        checkpoint: what the repository was exported from.
        repository: as `export_repository` wrote it, of one system.
        precision: of the products.

    Returns:
        Differences of the whole chain from PyTorch in float32, on random inputs and on photographs.
    """
    manifest = read_manifest(repository)
    system = manifest.systems[checkpoint.system.configuration.system]
    differences = Differences()
    with tempfile.TemporaryDirectory() as folder:
        graphs: dict[str, Path] = {}
        for role, component in system.components.items():
            graphs[role] = Path(folder) / f"{role}.onnx"
            graph = onnx.load(repository / component / MODEL_FILE)
            emulated = lower_precision(graph, precision, emulate=True).model
            onnx.save(emulated, graphs[role], save_as_external_data=emulated.ByteSize() >= 1 << 30)
        for _ in compare_chain(checkpoint.system, Runtime(graphs), checkpoint.tokenizer, differences):
            pass
    return differences.entries()


def engine_parity(
    checkpoint: Checkpoint, repository: Path, built: Sequence[BuiltEngine], request: EngineRequest
) -> tuple[ParityEntry, ...]:
    """How far the engines' answers are from PyTorch's in float32: run where their card is, emulated where not."""
    if request.edition == "standard":
        return measured_parity(checkpoint, built, request)
    return emulated_parity(checkpoint, repository, request.precision)


def measured_parity(
    checkpoint: Checkpoint, built: Sequence[BuiltEngine], request: EngineRequest
) -> tuple[ParityEntry, ...]:
    """How far the engines of TensorRT proper are from PyTorch in float32, run on the card that they were built on.

    Args:
        checkpoint: what the repository was exported from, of one system.
        built: its engines.
        request: what they were built for.

    Raises:
        ExportError: there is no CUDA device, or an engine does not run.
    """
    bindings = load_bindings(EDITIONS[request.edition])
    runtime = EngineRuntime(bindings, {engine.component: engine.path for engine in built})
    differences = Differences()
    for _ in compare_chain(checkpoint.system, runtime, checkpoint.tokenizer, differences):
        pass
    return differences.entries()


def _roles(manifest: Manifest) -> dict[str, tuple[Role, int]]:
    """Component → its role, and the longest text where it reads texts."""
    found: dict[str, tuple[Role, int]] = {}
    for system in manifest.support_systems.values():
        for role, component in system.components.items():
            found[component] = (role, system.text_encoder.max_tokens if system.text_encoder else 2)
    return found


def _report(
    component: str,
    request: EngineRequest,
    engine: Engine,
    found: Sequence[Profile],
    manifest: Manifest,
    bindings: Any,
    kept: dict[str, str],
) -> dict[str, object]:
    return {
        "component": component,
        "edition": EDITIONS[request.edition].title,
        "version": bindings.__version__,
        "targets": list(request.targets),
        "precision": request.precision,
        "weights": "stripped" if request.strip_weights else "inside",
        "bytes": len(engine.plan),
        "graph_sha256": manifest.components[component].sha256,
        "inputs": [asdict(tensor) for tensor in engine.inputs],
        "outputs": [asdict(tensor) for tensor in engine.outputs],
        "profiles": [{"name": profile.name, "sizes": dict(profile.sizes)} for profile in found],
        "products_by_type": engine.products,
        "products_in_float32_because_of": {
            reason: sorted(n for n in kept if kept[n] == reason) for reason in sorted(set(kept.values()))
        },
    }


def _write(path: Path, content: bytes) -> None:
    """Replaces a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
