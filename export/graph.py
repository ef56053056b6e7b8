"""A component → an ONNX file that has been checked."""

from __future__ import annotations

import hashlib
import logging
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch.export import Dim

from export.components import Component

OPSET = 20
"""First opset with a GELU of its own; ONNX Runtime ≥ 1.17 and TensorRT ≥ 10 read it."""

EXTERNAL_DATA_FROM = 1 << 30
"""Bytes of weights from which they go into a file beside the graph: protobuf ends at 2 GiB."""


class ExportError(RuntimeError):
    """An export that did not come to a sound end; nothing of it is left on disk."""


def write_graph(
    component: Component, path: Path, external_data_from: int = EXTERNAL_DATA_FROM, *, standard: bool = True
) -> None:
    """Traces a component with dynamic axes and writes it.

    Args:
        component: what to trace.
        path: the .onnx file; weights of `external_data_from` bytes and more go to `path`.data.
        external_data_from: see `EXTERNAL_DATA_FROM`.
        standard: the graph has ONNX's own operators only; others are checked by loading it in ONNX Runtime.

    Raises:
        ExportError: the graph does not pass onnx.checker or strict shape inference, or an axis that must be
            dynamic became a constant.
    """
    axes = {
        name: Dim(name, min=1, max=2048)
        for name in sorted({s for spec in component.inputs for s in spec.shape if isinstance(s, str)})
    }
    dynamic = tuple(
        {axis: axes[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in component.inputs
    )
    with warnings.catch_warnings(), torch.no_grad(), quiet_exporter():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            component.module.eval(),
            component.example(),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=[spec.name for spec in component.inputs],
            output_names=[spec.name for spec in component.outputs],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    # It lists every parameter of the system, used or not: equal towers of two systems would become different files.
    program.model.graph.metadata_props.clear()
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value)
    program.save(path, external_data=weights >= external_data_from)
    _check(component, path, standard=standard)


def _check(component: Component, path: Path, *, standard: bool) -> None:
    try:
        if standard:
            # By path, so that files above 2 GiB and external data are checked too.
            onnx.checker.check_model(str(path), full_check=True)
        else:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ExportError(f"{component.role}: the graph is not valid ONNX: {error}") from None
    graph = onnx.load(path, load_external_data=False).graph
    for specs, values in ((component.inputs, graph.input), (component.outputs, graph.output)):
        found = {
            value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim) for value in values
        }
        for spec in specs:
            if found.get(spec.name) != spec.shape:
                raise ExportError(f"{component.role}: {spec.name} came out as {found.get(spec.name)}, not {spec.shape}")


def graph_digest(path: Path) -> tuple[str, int]:
    """SHA-256 and size in bytes of a graph file together with its external data."""
    digest, size = hashlib.sha256(), 0
    for file in (path, path.with_name(path.name + ".data")):
        if file.exists():
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
    return digest.hexdigest(), size


class quiet_exporter:  # noqa: N801 (reads as a statement)
    """The exporter logs a line for every torchvision operator that is not installed; none is used."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("torch.onnx")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
