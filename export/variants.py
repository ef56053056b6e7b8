"""Other graphs of the components of an export: with fused operators, and in float16, for GPUs.

The graphs have the inputs and outputs of the component's own, so a server may load either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnxruntime

from cape.manifest import Role, VariantManifest, VariantName
from cape.models.swin import SwinV2
from cape.models.system import System
from export.components import Component
from export.fused_attention import fuse_attention, fuse_windows
from export.graph import ExportError, graph_digest, write_graph
from export.half_precision import to_half

FOLDER = "variants"
"""Folder inside a component's, beside the versions of its model; Triton ignores names that are not numbers."""

Variants = dict[Role, dict[VariantName, VariantManifest]]


def write_gpu_variants(
    system: System,
    parts: list[Component],
    graphs: Mapping[Role, Path],
    folder: Path,
    progress: Callable[[str], None] = lambda what: None,
) -> Variants:
    """Writes the graphs that suit GPUs: fused where a component has attention that can be, and float16.

    Args:
        system: what `parts` were made of; its attention is replaced by operators that PyTorch cannot run.
        parts: its components.
        graphs: their float32 graphs.
        folder: of the repository.
        progress: called with each step.
    """
    variants: Variants = {}
    for part in parts:
        progress(f"tracing {part.role} for GPUs")
        found = variants[part.role] = {}
        source = graphs[part.role]
        if _fuse(system, part.role):
            source = _path(folder, part.role, "fused")
            write_graph(part, source, standard=False)
            found["fused"] = describe_variant(source, "fused")
        target = _path(folder, part.role, "float16")
        model = onnx.load(str(source))
        onnx.save(to_half(model), str(target))
        check_loads(target, part.role)
        found["float16"] = describe_variant(target, "float16")
    return variants


def check_loads(path: Path, component: str) -> None:
    """Checks that ONNX Runtime takes a graph: types and shapes of every operator.

    Raises:
        ExportError: it does not.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own, which have no common base
        raise ExportError(f"{component}: {path.name} is not a valid graph: {error}") from None


def describe_variant(path: Path, name: VariantName) -> VariantManifest:
    """A variant's entry in the manifest."""
    digest, size = graph_digest(path)
    return VariantManifest(
        file=f"{FOLDER}/{name}.onnx",
        sha256=digest,
        bytes=size,
        operators=len(onnx.load(str(path), load_external_data=False).graph.node),
    )


def _path(folder: Path, component: str, name: VariantName) -> Path:
    path = folder / component / FOLDER / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _fuse(system: System, role: Role) -> bool:
    """Replaces a component's attention by fused operators; False where there is none that can be."""
    if role == "image_backbone" and isinstance(system.image_backbone.network, SwinV2):
        return fuse_windows(system.image_backbone.network)
    if role == "pose_decoder":
        fuse_attention(system.transformers)
        return True
    return False
