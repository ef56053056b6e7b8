"""Multiply-adds of matrix products and convolutions of an exported graph, counted from the graph itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import shape_inference

COUNTED = ("MatMul", "Gemm", "Conv")
"""Operators that are products of matrices; no others of an exported graph are."""


class UncountableError(ValueError):
    """A graph whose shapes do not follow from those of its inputs."""


def matrix_multiply_adds(graph: Path, sizes: Mapping[str, int]) -> int:
    """Counts one run of a graph.

    Args:
        graph: an ONNX file; its weights are not read.
        sizes: of the dynamic axes, by name: {"B": 1}.

    Raises:
        UncountableError: an axis has no size, or the shape of a product cannot be inferred; names it.
    """
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.input:
        for axis in tensor.type.tensor_type.shape.dim:
            if axis.dim_param:
                if axis.dim_param not in sizes:
                    raise UncountableError(
                        f"{graph}: {tensor.name} has an axis {axis.dim_param}, whose size is not given"
                    )
                axis.dim_value = sizes[axis.dim_param]
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, list[int | None]] = {constant.name: list(constant.dims) for constant in inferred.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        axes = value.type.tensor_type.shape.dim
        shapes[value.name] = [axis.dim_value if axis.HasField("dim_value") else None for axis in axes]

    def shape(node: onnx.NodeProto, name: str) -> list[int]:
        known = [size for size in shapes.get(name, [None]) if size is not None]
        if len(known) != len(shapes.get(name, [None])):
            raise UncountableError(f"{graph}: the shape of {name}, at {node.op_type} {node.name}, does not follow")
        return known

    total = 0
    for node in inferred.node:
        if node.op_type not in COUNTED:
            continue
        values = math.prod(shape(node, node.output[0]))
        if node.op_type == "Conv":
            total += values * math.prod(shape(node, node.input[1])[1:])
        else:
            transposed = any(field.name == "transA" and field.i for field in node.attribute)
            total += values * shape(node, node.input[0])[-2 if transposed else -1]
    return total
