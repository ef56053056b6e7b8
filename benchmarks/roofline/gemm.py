"""The peak speed of matrix products in an engine: graphs of large products, run like components."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.harness.engine_choices import EngineChoice
from cape.manifest import MODEL_FILE, ComponentManifest, Manifest, TensorSpec
from service.engines.base import Engine
from service.engines.choice import load_engine

SIDES = (768, 1024, 1536)
"""Sides of the square matrices. Which is fastest depends on the caches; the peak is the best of them."""

PRODUCTS = 6
"""Consecutive products, each with its own weights: enough to make the overhead of a run negligible."""

OUTPUT_COLUMNS = 16
"""Width of the last product, small enough that copying and checking the output is negligible."""


def multiply_adds(side: int) -> int:
    """Multiply-adds of one run of a graph."""
    return PRODUCTS * side**3 + side * side * OUTPUT_COLUMNS


def component(side: int) -> str:
    """Name of the graph of a given side."""
    return f"gemm_{side}"


def write_graphs(folder: Path, sides: Sequence[int]) -> Manifest:
    """Writes one graph per side, each a component of a repository.

    Returns:
        The parts of a manifest that an engine reads.
    """
    components = {}
    for side in sides:
        path = folder / component(side) / MODEL_FILE
        path.parent.mkdir(parents=True)
        onnx.save(_graph(side), path)
        components[component(side)] = ComponentManifest(
            inputs=(TensorSpec(name="x", dtype="float32", shape=(side, side)),),
            outputs=(TensorSpec(name="y", dtype="float32", shape=(side, OUTPUT_COLUMNS)),),
            max_batch_size=1,
            sha256="0" * 64,
            bytes=path.stat().st_size,
            parameters=multiply_adds(side) // side,
        )
    # No system is needed: engines read components only.
    known: dict[str, Any] = {"components": components, "systems": {}}
    return Manifest.model_construct(**known)


def gemm_engine(folder: Path, manifest: Manifest, choice: EngineChoice, threads: int | None) -> Engine:
    """Opens the engine with the options of a server."""
    return load_engine(choice.engine, folder, manifest, threads=threads, precision=choice.precision)


def _graph(side: int) -> onnx.ModelProto:
    generator = np.random.default_rng(side)
    nodes, weights, last = [], [], "x"
    for number in range(PRODUCTS + 1):
        columns = side if number < PRODUCTS else OUTPUT_COLUMNS
        # Dividing by the root of the side keeps the magnitude of values.
        matrix = generator.standard_normal((side, columns), np.float32) / np.float32(side**0.5)
        weights.append(numpy_helper.from_array(matrix, f"w{number}"))
        result = f"h{number}" if number < PRODUCTS else "y"
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [result]))
        last = result
    graph = helper.make_graph(
        nodes,
        component(side),
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [side, OUTPUT_COLUMNS])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
