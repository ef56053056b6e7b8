"""The smallest model of the repository: it gives the support image of a request the axis of shots.

`support_fusion` takes S images of a support, [B, S, …]. An ensemble request brings one, and Triton's ensembles
cannot reshape what they pass from model to model, so a graph of three Unsqueeze nodes stands in between.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from cape.manifest import TensorSpec
from export.graph import OPSET

INPUTS = (
    TensorSpec(name="features", dtype="float32", shape=("B", "C", "F", "F")),
    TensorSpec(name="keypoints", dtype="float32", shape=("B", "K", 2)),
    TensorSpec(name="visible", dtype="float32", shape=("B", "K")),
)
OUTPUTS = tuple(
    TensorSpec(name=f"shot_{spec.name}", dtype="float32", shape=(spec.shape[0], 1, *spec.shape[1:])) for spec in INPUTS
)

IR_VERSION = 10
"""Of the ONNX format; what ONNX Runtime ≥ 1.18 reads, as the exporter writes it for the other graphs."""


def write_single_shot(path: Path) -> None:
    """Writes the graph: each input → the same with an axis of size 1 after the batch."""
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", [source.name, "axis"], [target.name])
            for source, target in zip(INPUTS, OUTPUTS, strict=True)
        ],
        "single_shot",
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in INPUTS],
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in OUTPUTS],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link to the same file of another repository
    onnx.save(model, path)
