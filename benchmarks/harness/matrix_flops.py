"""Multiply-adds of matrix products and convolutions, counted in one run of an exported graph. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

COUNTED = ("MatMul", "Gemm", "Conv")
"""Operators that are products of matrices; an exported graph has no others."""


class UncountableError(ValueError):
    """A graph whose inputs have an axis of unknown size."""


def matrix_multiply_adds(graph: Path, sizes: Mapping[str, int]) -> int:
    """Counts one run of a graph.

    The graph runs once on zeros, with the shapes of its products as outputs: static shape inference loses them behind
    reshapes of dynamic axes.

    Args:
        graph: an ONNX file.
        sizes: of the dynamic axes, by name: {"B": 1}.

    Raises:
        UncountableError: an axis has no size; names it.
    """
    model = onnx.load(graph)
    inputs = {tensor.name: _zeros(graph, tensor, sizes) for tensor in model.graph.input}
    products = [node for node in model.graph.node if node.op_type in COUNTED]
    watched = sorted({name for node in products for name in (node.output[0], node.input[0], node.input[1])})
    del model.graph.output[:]
    for index, name in enumerate(watched):
        model.graph.node.append(helper.make_node("Shape", [name], [f"shape_{index}"]))
        model.graph.output.append(helper.make_tensor_value_info(f"shape_{index}", onnx.TensorProto.INT64, [None]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shapes = dict(zip(watched, session.run(None, inputs), strict=True)) if watched else {}
    return sum(_multiply_adds(node, {name: value.tolist() for name, value in shapes.items()}) for node in products)


def _zeros(graph: Path, tensor: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> np.ndarray:
    shape = []
    for axis in tensor.type.tensor_type.shape.dim:
        if axis.dim_param and axis.dim_param not in sizes:
            raise UncountableError(f"{graph}: {tensor.name} has an axis {axis.dim_param}, whose size is not given")
        shape.append(sizes[axis.dim_param] if axis.dim_param else axis.dim_value)
    return np.zeros(shape, helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type))


def _multiply_adds(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int:
    values = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return values * math.prod(shapes[node.input[1]][1:])
    transposed = any(field.name == "transA" and field.i for field in node.attribute)
    return values * shapes[node.input[0]][-2 if transposed else -1]
