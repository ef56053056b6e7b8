"""Graphs for GPUs: fused operators and float16, compared with the plain float32 graphs on the CPU."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cape.checkpoints import untrained
from cape.configuration import BackboneConfiguration
from cape.manifest import MODEL_FILE, Manifest, VariantName, read_manifest
from export.components import components
from export.fused_attention import merging_order, window_order
from export.graph import write_graph
from export.half_precision import to_half
from export.variants import write_gpu_variants
from service.engines.onnx_runtime import OnnxRuntimeEngine
from service.errors import EngineError
from tests.conftest import tiny_configuration


@pytest.fixture(scope="module")
def repository(tiny_repository: Path) -> Path:
    return tiny_repository


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image backbone whose windows are shifted in the first two stages, and its other graphs."""
    backbone = BackboneConfiguration(embed_dim=16, depths=(2, 2, 1, 1), heads=(1, 2, 4, 8), window=8)
    system = untrained(tiny_configuration(backbone=backbone), seed=3)
    folder = tmp_path_factory.mktemp("shifted")
    path = folder / "image_backbone" / MODEL_FILE
    path.parent.mkdir(parents=True)
    part = next(part for part in components(system) if part.role == "image_backbone")
    write_graph(part, path)
    write_gpu_variants(system, [part], {"image_backbone": path}, folder)
    return folder / "image_backbone"


@pytest.fixture(scope="module")
def manifest(repository: Path) -> Manifest:
    return read_manifest(repository)


def run(path: Path, inputs: dict[str, np.ndarray], output: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([output], inputs)[0]


def image(count: int = 2) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)}


def query(repository: Path, keypoints: int = 9) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    mask = np.ones((2, 1, keypoints), np.float32)
    mask[0, 0, 5:] = 0
    return {
        "features": run(repository / "image_backbone" / MODEL_FILE, image(), "features"),
        "support_tokens": random.standard_normal((2, 1, keypoints, 64)).astype(np.float32),
        "mask": mask,
        "adjacency": np.ones((2, keypoints, keypoints), np.float32),
    }


def variant(repository: Path, manifest: Manifest, component: str, name: VariantName) -> Path:
    return repository / component / manifest.components[component].variants[name].file


@pytest.mark.parametrize(("name", "tolerance"), [("fused", 1e-4), ("float16", 0.02)])
def test_the_backbone_s_other_graphs_give_the_same_features(shifted: Path, name: str, tolerance: float) -> None:
    expected = run(shifted / MODEL_FILE, image(), "features")
    found = run(shifted / "variants" / f"{name}.onnx", image(), "features")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=tolerance * float(expected.std()))


@pytest.mark.parametrize(("name", "tolerance"), [("fused", 1e-5), ("float16", 2e-3)])
def test_the_decoder_s_other_graphs_find_the_same_keypoints(repository, manifest, name, tolerance: float) -> None:
    inputs = query(repository)
    expected = run(repository / "pose_decoder" / MODEL_FILE, inputs, "keypoints")
    found = run(variant(repository, manifest, "pose_decoder", name), inputs, "keypoints")
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_attention_is_one_operator_and_windows_are_moved_by_one_gather(shifted: Path) -> None:
    kinds = [node.op_type for node in onnx.load(shifted / "variants" / "fused.onnx").graph.node]
    assert kinds.count("MultiHeadAttention") == 6
    assert "Softmax" not in kinds and "Slice" not in kinds
    # Into and out of shifted windows of two stages, and from windows to patch merging.
    assert kinds.count("Gather") <= 8
    assert len(kinds) < 0.65 * len(onnx.load(shifted / MODEL_FILE).graph.node)


@pytest.mark.parametrize(
    ("component", "least"), [("image_backbone", 0.99), ("text_encoder", 0.99), ("pose_decoder", 0.5)]
)
def test_float16_weights_are_float16_but_for_what_a_keypoint_is_read_off(
    repository, manifest: Manifest, component: str, least: float
) -> None:
    graph = onnx.load(variant(repository, manifest, component, "float16")).graph
    elements = {onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 0}
    for weight in graph.initializer:
        if weight.data_type in elements:
            elements[weight.data_type] += int(np.prod(weight.dims))
    assert elements[onnx.TensorProto.FLOAT16] >= least * sum(elements.values())


def test_the_manifest_describes_the_files(repository, manifest: Manifest) -> None:
    for name, component in manifest.components.items():
        assert "float16" in component.variants
        for found in component.variants.values():
            content = (repository / name / found.file).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (found.sha256, found.bytes)


def test_an_engine_runs_the_float16_graphs_and_refuses_a_repository_without(repository, manifest: Manifest) -> None:
    engine = OnnxRuntimeEngine(repository, manifest, 2, ["CPUExecutionProvider"], precision="float16")
    assert engine.description == "onnxruntime:CPUExecutionProvider:float16"
    assert engine.run("image_backbone", image(1), ["features"])["features"].dtype == np.float32
    engine.close()
    components = {name: one.model_copy(update={"variants": {}}) for name, one in manifest.components.items()}
    plain = manifest.model_copy(update={"components": components})
    with pytest.raises(EngineError, match="has no float16 graph: export the repository again with --gpu-graphs"):
        OnnxRuntimeEngine(repository, plain, 1, ["CPUExecutionProvider"], precision="float16")


def test_small_constants_stay_above_zero_and_large_ones_finite() -> None:
    values = np.array([1e-12, -1e-12, 0.0, 1e9, -1e9, 0.5], np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "add",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [6])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [6])],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    # Read by a product, so that it is not among what stays in float32.
    graph.node.insert(0, onnx.helper.make_node("Relu", ["x"], ["r"]))
    graph.node[1].input[0] = "r"
    model = to_half(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]))
    (weight,) = model.graph.initializer
    low = onnx.numpy_helper.to_array(weight)
    assert low.dtype == np.float16
    assert low[0] > 0 > low[1] and low[2] == 0 and np.isfinite(low).all() and low[5] == 0.5


@pytest.mark.parametrize(("side", "window", "shift"), [(8, 4, 0), (8, 4, 2), (4, 4, 0)])
def test_window_order_lists_windows_as_the_published_code_cuts_them(side: int, window: int, shift: int) -> None:
    cells = torch.arange(side * side).view(1, side, side, 1).roll((-shift, -shift), (1, 2))
    count = side // window
    windows = cells.view(1, count, window, count, window, 1).transpose(2, 3).reshape(count * count, window * window)
    assert torch.equal(window_order(side, window, shift).view(window * window, count * count).t(), windows)


def test_merging_order_lists_the_four_cells_of_a_patch_down_then_right() -> None:
    assert merging_order(4)[:8].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
