"""The roofline: products counted as they are, and the arithmetic of its table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from benchmarks.harness.engine_choices import engine_choices
from benchmarks.harness.matrix_flops import UncountableError, matrix_multiply_adds
from benchmarks.roofline.measurement import Roofline, gemm
from benchmarks.roofline.report import HEADER, tables
from cape.manifest import MODEL_FILE
from cli.main import main

pytestmark = pytest.mark.instruction_sets


def test_products_and_convolutions_are_counted_and_nothing_else(tmp_path: Path) -> None:
    weights = [
        numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in (("kernel", (6, 3, 3, 3)), ("matrix", (8, 5)), ("gemm", (5, 4)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["maps"], pads=[1, 1, 1, 1]),  # B × 6 × 8 × 8, 27 each
        helper.make_node("Relu", ["maps"], ["kept"]),
        helper.make_node("MatMul", ["kept", "matrix"], ["rows"]),  # B × 6 × 8 × 5, 8 each
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["mean", "gemm"], ["y"]),  # B × 4, 5 each
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
        weights,
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    assert matrix_multiply_adds(path, {"B": 2}) == 2 * (6 * 64 * 27 + 6 * 8 * 5 * 8 + 4 * 5)
    with pytest.raises(UncountableError, match="x has an axis B"):
        matrix_multiply_adds(path, {})


def test_the_graphs_of_the_peak_hold_the_products_that_they_say(tmp_path: Path) -> None:
    gemm.write_graphs(tmp_path, [64])
    assert matrix_multiply_adds(tmp_path / gemm.component(64) / MODEL_FILE, {}) == gemm.multiply_adds(64)


def test_the_ratio_is_time_by_time_at_the_peak() -> None:
    one = Roofline("flf", "swinv2-small", "openvino float32", "float32", 4, 50_000_000_000, 0.6, 1e11)
    row = dict(zip(HEADER, tables([one])[0].rows[0], strict=True))
    assert (row["peak, GFLOP/s"], row["products, GFLOP"]) == ("200.0", "100.00")
    assert (row["products at the peak, ms"], row["run, ms"]) == ("500.00", "600.00")
    assert row["run ÷ products at the peak"] == "1.20"


def test_the_command_measures_every_engine(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemm, "SIDES", (128, 256))
    command = ["bench", "roofline", "--repository", str(tiny_repository), "--runs", "3", "--output", str(tmp_path)]
    result = CliRunner().invoke(main, [*command, "--threads", "1"])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "roofline.json").read_text())["rooflines"]
    assert [(one["engine"], one["batch"]) for one in found] == [
        (str(choice), batch) for choice in engine_choices() for batch in (1, 4)
    ]
    for one in found:
        assert one["ratio"] == pytest.approx(one["seconds"] * one["peak"] / one["multiply_adds"])
        assert one["ratio"] > 1
    assert found[1]["multiply_adds"] == 4 * found[0]["multiply_adds"]
