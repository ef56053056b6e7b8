"""A component → an ONNX file that has been checked."""

from __future__ import annotations

import hashlib
import inspect
import logging
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from cape.manifest import TensorSpec
from export.components import Component

OPSET = 20
"""First opset with a GELU of its own; ONNX Runtime ≥ 1.17 and TensorRT ≥ 10 read it."""

EXTERNAL_DATA_FROM = 1 << 30
"""Bytes of weights from which they go into a file beside the graph: protobuf ends at 2 GiB."""


LARGEST_AXIS = 2048
"""Most of a dynamic axis, unless a component says otherwise."""


class ExportError(RuntimeError):
    """An export that did not come to a sound end; nothing of it is left on disk."""


def write_graph(
    component: Component, path: Path, external_data_from: int = EXTERNAL_DATA_FROM, *, standard: bool = True
) -> None:
    """Traces a component with dynamic axes and writes it; arguments and errors as for `write_module`."""
    write_module(
        component.module,
        component.example(),
        component.inputs,
        component.outputs,
        path,
        external_data_from=external_data_from,
        standard=standard,
    )


def write_module(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    path: Path,
    *,
    largest: Mapping[str, int] = MappingProxyType({}),
    derived: Collection[str] = (),
    external_data_from: int = EXTERNAL_DATA_FROM,
    standard: bool = True,
) -> None:
    """Traces a module with dynamic axes, writes it as ONNX and checks the file.

    Args:
        module: what to trace.
        example: one tensor per input.
        inputs, outputs: names and shapes; an axis named by a string is dynamic.
        path: the .onnx file; weights of `external_data_from` bytes and more go to `path`.data.
        largest: most of a dynamic axis, by name; 2048 where not given.
        derived: axes whose size follows from others (a sum, say); the file may name them differently.
        external_data_from: see `EXTERNAL_DATA_FROM`.
        standard: the graph has ONNX's own operators only; others are checked by loading it in ONNX Runtime.

    Raises:
        ExportError: the graph does not pass onnx.checker or strict shape inference, or an axis that must be
            dynamic became a constant.
    """
    names = sorted({axis for spec in inputs for axis in spec.shape if isinstance(axis, str)})
    axes = {
        name: Dim.DYNAMIC if name in derived else Dim(name, min=1, max=largest.get(name, LARGEST_AXIS))
        for name in names
    }
    dynamic = tuple(
        {axis: axes[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in inputs
    )
    parameters = inspect.signature(module.forward).parameters.values()
    takes_any_number = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    with warnings.catch_warnings(), torch.no_grad(), quiet_exporter():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            dynamic_shapes=(dynamic,) if takes_any_number else dynamic,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    # It lists every parameter of the system, used or not: equal text encoders of two systems would become two files.
    program.model.graph.metadata_props.clear()
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value)
    program.save(path, external_data=weights >= external_data_from)
    _check(path, inputs, outputs, derived, standard=standard)


def _check(
    path: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    derived: Collection[str],
    *,
    standard: bool,
) -> None:
    component = path.parts[-3]
    try:
        if standard:
            # By path, so that files above 2 GiB and external data are checked too.
            onnx.checker.check_model(str(path), full_check=True)
        else:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ExportError(f"{component}: the graph is not valid ONNX: {error}") from None
    graph = onnx.load(path, load_external_data=False).graph
    for specs, values in ((inputs, graph.input), (outputs, graph.output)):
        found = {
            value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim) for value in values
        }
        for spec in specs:
            if not _same_axes(found.get(spec.name, ()), spec.shape, derived):
                raise ExportError(f"{component}: {spec.name} came out as {found.get(spec.name)}, not {spec.shape}")


def _same_axes(found: Sequence[int | str], expected: Sequence[int | str], derived: Collection[str]) -> bool:
    return len(found) == len(expected) and all(
        isinstance(size, str) if wanted in derived else size == wanted
        for size, wanted in zip(found, expected, strict=True)
    )


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
