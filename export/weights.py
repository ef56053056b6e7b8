"""Weights of products in 8 or 4 bits, for graphs whose size is their weights: a language model's.

Weights are rounded to the nearest of 256 or 16 steps, in blocks along the axis that is summed over, with a float32
scale a block: ONNX Runtime's `MatMulNBits`, which its CPU and CUDA providers multiply by as it lies, without a float32
copy. Inputs, outputs, norms, attention and the key/value cache stay as they are.

Not `quantize_dynamic`, whose products are faster on CPUs: it rounds all activations of a run with one scale, so that
what a caller is told would depend on whose rows share the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.graph import EXTERNAL_DATA_FROM

Weights = Literal["float32", "int8", "int4"]
"""How the weights of products are stored."""

BITS: dict[Weights, int] = {"int8": 8, "int4": 4}

BLOCK = {8: 128, 4: 32}
"""Weights that share a scale, by bits: 16 steps need a closer one than 256."""

ACCURACY_LEVEL = 4
"""On a CPU, the activations of a row's block are rounded to 8 bits as well and integers multiplied. Level 1 multiplies
in float32 and is 4 (int4) to 17 times (int8) slower for a single row; the CUDA provider passes over it and does."""

SMALLEST = 64 * 64
"""Numbers in a weight from which rounding it is worth anything."""


class Quantised(NamedTuple):
    """What was rounded.

    Attributes:
        model: the graph; its inputs and outputs are what they were.
        bits: product or embedding, by the name of its node → bits of its weights.
    """

    model: ModelProto
    bits: dict[str, int]


def quantise_weights(model: ModelProto, weights: Weights, logits: str | None = None) -> Quantised:
    """Rounds the weights of a graph's products, and of the embeddings that it looks up.

    Args:
        model: a float32 graph with its weights in it; it is changed.
        weights: what to store; float32 changes nothing.
        logits: the output that tokens are chosen by. The product before it and the embeddings have 8 bits
            even where the others have 4: a wrong last digit costs more than its weights weigh.
    """
    if weights == "float32":
        return Quantised(model, {})
    _transpose_ahead(model)
    last = _product_before(model, logits)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    chosen = {
        node.name: 8 if node.name == last else BITS[weights]
        for node in model.graph.node
        if node.op_type == "MatMul" and _is_large(values.get(node.input[1]))
    }
    looked_up = {node.name: 8 for node in _embeddings(model)}
    _quantise_embeddings(model)
    for bits in sorted(set(chosen.values())):
        _quantise_products(model, {name for name, own in chosen.items() if own == bits}, bits)
    _drop_unused_weights(model)
    return Quantised(model, looked_up | chosen)


def quantise_file(source: Path, target: Path, weights: Weights, logits: str | None = None) -> dict[str, int]:
    """Writes a graph file with rounded weights.

    Args:
        source: a float32 .onnx file, weights beside it or in it.
        target: the file to write; may be `source`. Weights lie beside it, as `target`.data, where they lay beside
            `source` or are too large for protobuf.
        weights, logits: see `quantise_weights`.

    Returns:
        What was rounded → to how many bits.
    """
    beside = source.with_name(source.name + ".data").exists()
    found = quantise_weights(onnx.load(source), weights, logits)
    size = sum(len(tensor.raw_data) for tensor in found.model.graph.initializer)
    data = target.with_name(target.name + ".data")
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in (target, data):
        path.unlink(missing_ok=True)  # onnx appends to data that is there
    onnx.save(
        found.model,
        target,
        save_as_external_data=beside or size >= EXTERNAL_DATA_FROM,
        location=data.name,
        size_threshold=1024,
    )
    onnx.checker.check_model(str(target))
    return found.bits


def _is_large(tensor: TensorProto | None) -> bool:
    return (
        tensor is not None
        and tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and int(np.prod(tensor.dims)) >= SMALLEST
    )


def _transpose_ahead(model: ModelProto) -> None:
    """Weights that the graph transposes become transposed weights: tied ones, which are embeddings as well."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    kept: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Transpose" and _is_large(values.get(node.input[0])):
            turned = np.ascontiguousarray(numpy_helper.to_array(values[node.input[0]]).T)
            model.graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        else:
            kept.append(node)
    _set_nodes(model, kept)


def _product_before(model: ModelProto, output: str | None) -> str:
    """Name of the first product on the way back from an output; empty where there is none."""
    makers = {name: node for node in model.graph.node for name in node.output}
    front, seen = [output] if output is not None else [], set()
    while front:
        node = makers.get(front.pop(0))
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type == "MatMul":
            return str(node.name)
        front += node.input
    return ""


def _embeddings(model: ModelProto) -> list[NodeProto]:
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    return [n for n in model.graph.node if n.op_type == "Gather" and _is_large(values.get(n.input[0]))]


def _quantise_embeddings(model: ModelProto) -> None:
    """A table of embeddings: bytes and a scale a row, in operators of ONNX's own that every provider has."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {node.name for node in _embeddings(model)}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        table, ids = node.input
        rows = numpy_helper.to_array(values[table])
        scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.round(rows / scales).astype(np.int8), f"{table}_Q8_rows"),
                numpy_helper.from_array(scales.astype(np.float32), f"{table}_Q8_row_scales"),
            ]
        )
        own = node.output[0]
        nodes += [
            helper.make_node("Gather", [f"{table}_Q8_rows", ids], [f"{own}_Q8"], name=f"{node.name}_Q8"),
            helper.make_node("Gather", [f"{table}_Q8_row_scales", ids], [f"{own}_scale"], name=f"{node.name}_scale"),
            helper.make_node("Cast", [f"{own}_Q8"], [f"{own}_cast"], name=f"{node.name}_cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{own}_cast", f"{own}_scale"], [own], name=f"{node.name}_scaled"),
        ]
    _set_nodes(model, nodes)


def _quantise_products(model: ModelProto, names: set[str], bits: int) -> None:
    with _quiet_quantiser():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantiser = MatMulNBitsQuantizer(
            model,
            bits=bits,
            block_size=BLOCK[bits],
            is_symmetric=True,  # what is 0 stays 0, and there are no zero points to store
            accuracy_level=ACCURACY_LEVEL,
            nodes_to_exclude=[node.name for node in model.graph.node if node.name not in names],
        )
        quantiser.process()


def _drop_unused_weights(model: ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    # Shapes of values that are no longer there.
    del model.graph.value_info[:]


def _set_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Its module sets up the root logger when it is imported, and then logs a line for every node."""
    root, own = logging.getLogger(), logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")
    level, handler = root.level, logging.NullHandler()
    root.addHandler(handler)  # with a handler there, basicConfig does nothing
    own.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
