"""Graphs with rounded weights: smaller, near what they were, and rounded only where that was wanted."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.weights import Weights, quantise_file

WORDS, WIDTH = 200, 128


@pytest.fixture
def language_model(tmp_path: Path) -> Path:
    """Embeddings, a product, a norm's weights and a tied product: ids int64 [R] → logits [R, WORDS]."""
    generator = np.random.default_rng(0)
    weights = {
        "table": generator.standard_normal((WORDS, WIDTH)),
        "inner": generator.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5,
        "norm": generator.uniform(0.5, 1.5, WIDTH),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["embedded"], name="embedding"),
            helper.make_node("MatMul", ["embedded", "inner"], ["hidden"], name="hidden_product"),
            helper.make_node("Mul", ["hidden", "norm"], ["normed"], name="norm_product"),
            helper.make_node("Transpose", ["table"], ["turned"], name="turn", perm=[1, 0]),
            helper.make_node("MatMul", ["normed", "turned"], ["raw"], name="logits_product"),
            helper.make_node("Identity", ["raw"], ["logits"], name="out"),
        ],
        "language_model",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["R"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", WORDS])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / "float32" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    return path


def logits(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"ids": np.arange(0, WORDS, 3)})[0]


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir())


@pytest.mark.parametrize(("weights", "bits", "smaller", "error"), [("int8", 8, 2.2, 0.02), ("int4", 4, 2.4, 0.2)])
def test_rounded_weights_are_small_and_near(
    language_model: Path, tmp_path: Path, weights: Weights, bits: int, smaller: float, error: float
) -> None:
    target = tmp_path / weights / "model.onnx"
    # What the logits are read off keeps 8 bits, whatever the rest has.
    expected_bits = {"embedding": 8, "hidden_product": bits, "logits_product": 8}
    assert quantise_file(language_model, target, weights, "logits") == expected_bits
    assert size(language_model) > smaller * size(target)
    expected, found = logits(language_model), logits(target)
    difference = np.abs(expected - found).mean() / expected.std()
    # Different at all: otherwise nothing was rounded.
    assert 1e-4 < difference < error


def test_a_file_may_be_rounded_in_its_place(language_model: Path, tmp_path: Path) -> None:
    quantise_file(language_model, tmp_path / "beside" / "model.onnx", "int8", "logits")
    quantise_file(language_model, language_model, "int8", "logits")
    assert size(language_model) == size(tmp_path / "beside" / "model.onnx")
    assert np.array_equal(logits(language_model), logits(tmp_path / "beside" / "model.onnx"))


def test_what_is_no_large_product_stays_as_it_is(language_model: Path, tmp_path: Path) -> None:
    quantise_file(language_model, tmp_path / "model.onnx", "int4", "logits")
    kept = {tensor.name: tensor for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    norm = {tensor.name: tensor for tensor in onnx.load(language_model).graph.initializer}["norm"]
    np.testing.assert_array_equal(numpy_helper.to_array(kept["norm"]), numpy_helper.to_array(norm))
    assert "table" not in kept and "inner" not in kept


def test_rounding_leaves_the_logs_alone(language_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handlers = list(logging.getLogger().handlers)
    quantise_file(language_model, tmp_path / "model.onnx", "int8", "logits")
    assert logging.getLogger().handlers == handlers
    assert not caplog.records
