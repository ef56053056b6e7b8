"""Half-precision arithmetic where it is safe: products in float16 or bfloat16, everything else in float32.

TensorRT builds what the graph's types say (strong typing), so precision is decided here and nowhere else. As in
torch's autocast, an operand is cast right before a product and the result right after it; what a compiler can fuse
it fuses. Kept in float32 are softmax, LayerNorm, GELU and sums, because their inputs grow with the number of terms,
and the products below, because a keypoint is read off them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Precision = Literal["float32", "float16", "bfloat16"]

ELEMENT_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}

PRODUCTS: dict[Precision, frozenset[str]] = {
    "float32": frozenset(),
    "float16": frozenset({"MatMul", "Gemm", "Conv"}),
    "bfloat16": frozenset({"MatMul", "Gemm"}),  # ONNX has no bfloat16 convolution before opset 22
}

KEPT: dict[str, str] = {
    "proposal_generator": "similarity and soft-arg-max: an expectation over 256 cells, whose centres are 1/16 apart, "
    "and an arg-max, which turns a rounded tie into another cell",
    "kpt_branch": "coordinate refinement: its output is added to coordinates and must resolve a thousandth of the crop",
    "pooling": "Gaussian weights of support keypoints: cell numbers up to 64 squared",
    "fusion": "the softmax of CMAA compares tokens before they are normalised",
}
"""Modules whose products stay in float32, and why."""

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata in which torch's exporter leaves the modules that a node comes from."""


class Lowered(NamedTuple):
    """A graph in mixed precision.

    Attributes:
        model: the graph; inputs and outputs have the types that they had.
        lowered: names of the products that run in half precision.
        kept: names of those that stay in float32 → the module that is the reason, as `KEPT` lists it.
    """

    model: ModelProto
    lowered: tuple[str, ...]
    kept: dict[str, str]


def lower_precision(model: ModelProto, precision: Precision, *, emulate: bool = False) -> Lowered:
    """Moves a graph's products to half precision.

    Args:
        model: a float32 graph of `export.graph.write_graph`, with its weights in it; it is not changed.
        precision: of the products; float32 changes nothing.
        emulate: round operands and results to `precision`, but multiply in float32: what a tensor core computes,
            which adds up in float32 too, on a machine that has none. For measuring accuracy, not for serving.
    """
    model, low = _copy(model), ELEMENT_TYPES[precision]
    products = [node for node in model.graph.node if node.op_type in PRODUCTS[precision]]
    kept = {node.name: reason for node in products if (reason := reason_to_keep(node))}
    lowered = [node for node in products if node.name not in kept]
    floats = {value.name: value for value in model.graph.initializer if value.data_type == TensorProto.FLOAT}
    names = {node.name for node in lowered}
    casts: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        for index, source in enumerate(node.input):
            if not source:
                continue  # an optional bias that is not there
            if source not in casts:
                casts[source] = f"{source}_{precision}"
                if source in floats and not emulate:
                    model.graph.initializer.append(_converted(floats[source], casts[source], low))
                else:
                    nodes.extend(_round(source, casts[source], low, emulate=emulate))
            node.input[index] = casts[source]
        output, computed = node.output[0], f"{node.output[0]}_{precision}"
        node.output[0] = computed
        nodes.append(node)
        nodes.extend(
            _round(computed, output, low, emulate=True) if emulate else [_cast(computed, output, TensorProto.FLOAT)]
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unused_weights(model)
    return Lowered(model, tuple(node.name for node in lowered), kept)


def reason_to_keep(node: NodeProto) -> str:
    """The module of `KEPT` that a node belongs to; empty where there is none."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
    parts = {part for scope in scopes.split("'") for part in scope.split(".")}
    return next((module for module in KEPT if module in parts), "")


def _round(source: str, target: str, low: int, *, emulate: bool) -> Iterator[NodeProto]:
    """Casts a value down, and for emulation up again."""
    if emulate:
        yield _cast(source, f"{target}_rounded", low)
        yield _cast(f"{target}_rounded", target, TensorProto.FLOAT)
    else:
        yield _cast(source, target, low)


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to)


def _converted(weight: TensorProto, name: str, low: int) -> TensorProto:
    """A weight in half precision; what float16 cannot hold becomes its largest number, not infinity."""
    values = numpy_helper.to_array(weight)
    if low == TensorProto.FLOAT16:
        limit = np.finfo(np.float16).max
        return numpy_helper.from_array(np.clip(values, -limit, limit).astype(np.float16), name)
    return helper.make_tensor(
        name, low, values.shape, values.astype(helper.tensor_dtype_to_np_dtype(low)).tobytes(), raw=True
    )


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    # Types of intermediate values, which change.
    del copy.graph.value_info[:]
    return copy


def _drop_unused_weights(model: ModelProto) -> None:
    used = {source for node in model.graph.node for source in node.input}
    used |= {output.name for output in model.graph.output}
    weights = [weight for weight in model.graph.initializer if weight.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
