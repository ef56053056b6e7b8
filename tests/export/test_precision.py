"""Half precision goes to products alone, but for those that a keypoint is read off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cape.checkpoints import load_checkpoint
from export.precision import KEPT, SCOPES, lower_precision
from export.tensorrt.engines import emulated_parity

pytestmark = pytest.mark.instruction_sets

ROLES = ("image_backbone", "text_encoder", "support_fusion", "pose_decoder")


@pytest.fixture(scope="session")
def graphs(tiny_repository: Path) -> dict[str, onnx.ModelProto]:
    return {role: onnx.load(tiny_repository / role / "1" / "model.onnx") for role in ROLES}


def product(scope: str = "") -> onnx.ModelProto:
    """y = x · w, for x [N, 2] and w = [[1.0009765625], [100 000]]: float16 knows neither exactly."""
    weight = numpy_helper.from_array(np.array([[1 + 2**-10 + 2**-12], [100_000]], np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    if scope:
        node.metadata_props.add(key=SCOPES, value=scope)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])
    return helper.make_model(
        helper.make_graph([node], "g", [x], [y], [weight]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )


def answer(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_graphs_stay_valid_and_keep_the_types_of_inputs_and_outputs(graphs, precision) -> None:
    for model in graphs.values():
        lowered = lower_precision(model, precision).model
        onnx.checker.check_model(lowered, full_check=True)
        assert list(lowered.graph.input) == list(model.graph.input)
        assert list(lowered.graph.output) == list(model.graph.output)


def test_nothing_changes_in_float32(graphs) -> None:
    model = graphs["pose_decoder"]
    unchanged = lower_precision(model, "float32")
    assert not unchanged.lowered
    assert list(unchanged.model.graph.node) == list(model.graph.node)


def test_products_that_keypoints_are_read_off_stay_in_float32(graphs) -> None:
    reasons = set()
    for role in ROLES:
        lowered = lower_precision(graphs[role], "float16")
        reasons |= set(lowered.kept.values())
        assert lowered.lowered, role
    assert reasons == set(KEPT)
    assert not lower_precision(graphs["image_backbone"], "float16").kept


def test_a_module_is_told_by_its_whole_name() -> None:
    for scope, kept in (("['', 'system.kpt_branch.0.2']", True), ("['', 'system.kpt_branches.0']", False)):
        assert bool(lower_precision(product(scope), "float16").kept) == kept


def test_operands_are_rounded_and_weights_too_large_become_the_largest_number() -> None:
    half = lower_precision(product(), "float16").model
    x = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    np.testing.assert_array_equal(answer(half, x)[:, 0], [1 + 2**-10, 65504.0])


def test_emulation_multiplies_in_float32_what_was_rounded() -> None:
    x = np.array([[1 + 2**-9, 0.0]], np.float32)
    # bfloat16 has 8 bits: both operands lose what is below 2⁻⁷, and the product is rounded again.
    np.testing.assert_array_equal(answer(lower_precision(product(), "bfloat16", emulate=True).model, x), [[1.0]])
    np.testing.assert_allclose(answer(product(), x), [[(1 + 2**-9) * (1 + 2**-10 + 2**-12)]], rtol=1e-7)


def test_weights_take_half_the_room(graphs) -> None:
    def weights(model: onnx.ModelProto) -> int:
        return sum(numpy_helper.to_array(value).nbytes for value in model.graph.initializer)

    model = graphs["pose_decoder"]
    assert weights(lower_precision(model, "float16").model) < 0.75 * weights(model)


def test_float16_answers_stay_close_and_bfloat16_less_so(
    tiny_export: Callable[..., Path], tiny_checkpoint: Path
) -> None:
    repository, checkpoint = tiny_export(), load_checkpoint(tiny_checkpoint)
    found = {
        precision: {entry.output: entry for entry in emulated_parity(checkpoint, repository, precision)}
        for precision in ("float32", "float16", "bfloat16")
    }
    spread = found["float32"]["chain.similarity"].scale
    errors = {precision: entries["chain.similarity"].p999 for precision, entries in found.items()}
    assert errors["float32"] < 1e-4 * spread
    assert 1e-4 * spread < errors["float16"] < 0.05 * spread
    assert errors["float16"] < errors["bfloat16"] < 0.5 * spread
