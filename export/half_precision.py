"""A graph that stays in float16, with float32 islands only where a keypoint is read off.

`export.precision` casts around every product, which TensorRT fuses and ONNX Runtime does not: there the casts and the
float32 operators between them cost more than the products gain. Here weights and activations are float16 throughout;
only the modules of `KEPT` and what is listed below compute in float32. Operators that accumulate, such as softmax,
LayerNormalization and matrix products, do so in float32 inside their kernels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from export.precision import reason_to_keep

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16

SMALLEST_HALF = 6e-8
"""A constant that is not 0 must not become 0, such as what keeps a division from one by 0."""

FIRST_INPUT_ONLY = frozenset({"Resize"})
"""Operators whose further inputs are float32 whatever the type of the first."""

DTYPE_ATTRIBUTES = frozenset({"Cast", "ConstantOfShape", "RandomNormal", "EyeLike"})

FLOAT_OPERATORS = frozenset({"Sin", "Cos", "Log", "Floor", "Mod", "CumSum", "ReduceL2", "ReduceSumSquare", "Range"})
"""Operators that stay in float32 wherever they are: sines of large angles, logarithms near 0, sums of squares, which
overflow."""

ELEMENT_WISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Clip", "Max", "Min", "Sigmoid", "Where", "Abs", "Neg", "ReduceSum"}
)
LAYOUT = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Concat", "Slice", "Expand", "Split", "Identity"})
"""Operators that stay in float32 where all that they read is: a cast in front of them gains nothing, and coordinates
that are added up keep their precision."""


TYPE_PRESERVING = frozenset(
    {"Reshape", "Transpose", "Split", "Slice", "Concat", "Add", "Mul", "Sub", "Div", "MatMul", "Gather", "Unsqueeze"}
    | {
        "SimplifiedLayerNormalization",
        "Squeeze",
        "Expand",
        "LayerNormalization",
        "Gelu",
        "Softmax",
        "Relu",
        "Tanh",
        "Sigmoid",
        "Identity",
        "Gemm",
    }
)
"""Operators whose outputs have the type of their first input: what inference loses behind operators that it does not
know."""


def to_half(model: ModelProto) -> ModelProto:
    """Converts a graph to float16, with float32 islands.

    Args:
        model: a float32 graph of `export.graph.write_graph`, with its weights in it; it is not changed.

    Returns:
        The graph; inputs and outputs have the types that they had.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    inferred = shape_inference.infer_shapes(copy, data_prop=False)
    graph = copy.graph
    floats = _float_values(inferred.graph)
    outputs = {value.name for value in graph.output}
    converter = _Converter(graph, floats)
    for node in list(graph.node):
        converter.add(node)
    for name in outputs & floats:
        converter.restore(name)
    del graph.node[:]
    graph.node.extend(converter.nodes)
    used = {name for node in graph.node for name in node.input} | outputs
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*weights, *converter.weights])
    # Types of intermediate values, which have changed.
    del graph.value_info[:]
    return copy


def _float_values(graph: GraphProto) -> set[str]:
    """Names of the float32 values of a graph whose types have been inferred."""
    values: Iterable[onnx.ValueInfoProto] = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT}
    found |= {weight.name for weight in graph.initializer if weight.data_type == FLOAT}
    for node in graph.node:
        if (node.domain or node.op_type in TYPE_PRESERVING) and node.input and node.input[0] in found:
            found.update(node.output)
    return found


class _Converter:
    """Rewrites nodes one by one, with casts where float16 and float32 meet."""

    def __init__(self, graph: GraphProto, floats: set[str]) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._floats = floats
        self._initializers = {weight.name: weight for weight in graph.initializer}
        # Type in which each float value is there now; both where it has been cast.
        self._types: dict[str, int] = {}
        self._cast: dict[tuple[str, int], str] = {}
        self._outputs = {value.name for value in graph.output}
        for name in (*(value.name for value in graph.input), *self._initializers):
            if name in floats:
                self._types[name] = FLOAT

    def add(self, node: NodeProto) -> None:
        """Adds a node, in the type that suits it."""
        low = not self._keeps_float(node)
        wanted = HALF if low else FLOAT
        for index, name in enumerate(node.input):
            if name in self._floats:
                of_its_own = node.op_type in FIRST_INPUT_ONLY and index > 0
                node.input[index] = self._as(name, FLOAT if of_its_own else wanted)
        for attribute in node.attribute:
            if low and node.op_type in DTYPE_ATTRIBUTES and attribute.name in ("to", "dtype") and attribute.i == FLOAT:
                attribute.i = HALF
            if low and attribute.name == "value" and attribute.t.data_type == FLOAT:
                attribute.t.CopyFrom(_half_weight(attribute.t, attribute.t.name))
        for index, name in enumerate(node.output):
            if name in self._floats:
                self._types[name] = wanted
                if name in self._outputs and low:
                    node.output[index] = f"{name}_half"
                    self._cast[name, HALF] = f"{name}_half"
        self.nodes.append(node)

    def _keeps_float(self, node: NodeProto) -> bool:
        if reason_to_keep(node) or node.op_type in FLOAT_OPERATORS:
            return True
        read = [name for name in node.input if name in self._floats and name not in self._initializers]
        if not read:
            # Bytes of an image, which are normalised next, and comparisons; but not tables of embeddings.
            return node.op_type != "Gather"
        if node.op_type == "Div" and self._types[node.input[0]] == HALF and self._types[node.input[1]] == FLOAT:
            # By a norm, which may be too small for float16.
            return True
        return node.op_type in ELEMENT_WISE | LAYOUT and all(self._types[name] == FLOAT for name in read)

    def restore(self, name: str) -> None:
        """Gives a graph's output its float32 again."""
        if self._types.get(name) == HALF:
            self.nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"cast_{name}", to=FLOAT))

    def _as(self, name: str, wanted: int) -> str:
        if (name, wanted) in self._cast:
            return self._cast[name, wanted]
        if self._types[name] == wanted:
            return name
        target = f"{name}_{'half' if wanted == HALF else 'float'}"
        if name in self._initializers:
            self.weights.append(_half_weight(self._initializers[name], target))
        else:
            source = self._cast.get((name, HALF), name) if wanted == FLOAT else name
            self.nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=wanted))
        self._cast[name, wanted] = target
        return target


def _half_weight(weight: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(weight)
    limit = float(np.finfo(np.float16).max)
    low = np.clip(values, -limit, limit)
    low = np.where((low != 0) & (np.abs(low) < SMALLEST_HALF), np.sign(low) * SMALLEST_HALF, low)
    return numpy_helper.from_array(low.astype(np.float16), name)
