"""OpenVINO in process answers as ONNX Runtime does, refuses what it refuses, and serves."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from cape.manifest import read_manifest
from export.components import EXAMPLE_SIZES
from service.engines.choice import best_engine, installed_engines, load_engine
from service.errors import EngineError
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import points, query

pytest.importorskip("openvino", reason="openvino is missing: pip install 'capeserve[openvino]'")

from service.engines.openvino_runtime import ISA_LIMITS, OpenVinoEngine, multiplies_bfloat16

pytestmark = pytest.mark.instruction_sets


def inputs_of(manifest, component: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a component."""
    random = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for spec in manifest.components[component].inputs:
        shape = [EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in spec.shape]
        if spec.dtype == "uint8":
            found[spec.name] = random.integers(0, 256, shape, dtype=np.uint8)
        elif spec.dtype == "int64":
            found[spec.name] = np.ones(shape, np.int64)
        else:
            found[spec.name] = random.random(shape, dtype=np.float32)
    return found


@pytest.fixture(scope="module")
def engine(tiny_repository: Path) -> OpenVinoEngine:
    return OpenVinoEngine(tiny_repository, read_manifest(tiny_repository), threads=1)


@pytest.mark.parametrize("component", ["image_backbone", "text_encoder", "support_fusion", "pose_decoder"])
def test_every_component_answers_as_in_onnx_runtime(
    tiny_repository: Path, engine: OpenVinoEngine, component: str
) -> None:
    manifest = read_manifest(tiny_repository)
    reference = load_engine("onnxruntime", tiny_repository, manifest, threads=1)
    inputs = inputs_of(manifest, component)
    names = [spec.name for spec in manifest.components[component].outputs]
    expected = reference.run(component, inputs, names)
    found = engine.run(component, inputs, names)
    assert found.keys() == expected.keys()
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4 * max(1.0, float(expected[name].std())))


def test_an_answer_stays_what_it_was_when_the_next_run_is_over(engine: OpenVinoEngine, tiny_repository: Path) -> None:
    manifest = read_manifest(tiny_repository)
    first = engine.run("image_backbone", inputs_of(manifest, "image_backbone", 1), ["features"])["features"]
    before = first.copy()
    second = engine.run("image_backbone", inputs_of(manifest, "image_backbone", 2), ["features"])["features"]
    np.testing.assert_array_equal(first, before)
    assert not np.array_equal(first, second)


def test_what_the_manifest_does_not_describe_is_refused(engine: OpenVinoEngine, tiny_repository: Path) -> None:
    inputs = inputs_of(read_manifest(tiny_repository), "image_backbone")
    for component, given, outputs, message in (
        ("tripler", inputs, ["features"], "no such component"),
        ("image_backbone", {}, ["features"], "expects image; got nothing"),
        ("image_backbone", inputs, ["depth"], "asked for depth"),
        ("image_backbone", {"image": inputs["image"].astype(np.float32)}, ["features"], "image is float32"),
    ):
        with pytest.raises(EngineError, match=message):
            engine.run(component, given, outputs)


def test_threads_may_run_components_at_the_same_time(engine: OpenVinoEngine, tiny_repository: Path) -> None:
    manifest = read_manifest(tiny_repository)
    inputs = [inputs_of(manifest, "pose_decoder", seed) for seed in range(3)]
    expected = [engine.run("pose_decoder", one, ["scores"])["scores"] for one in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        answers = [engine.run("pose_decoder", inputs[number], ["scores"])["scores"] for _ in range(10)]
        wrong.extend(number for answer in answers if not np.array_equal(answer, expected[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_bfloat16_is_refused_where_the_cpu_does_not_multiply_it(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openvino.Core.get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(EngineError, match="does not multiply bfloat16"):
        OpenVinoEngine(tiny_repository, read_manifest(tiny_repository), precision="bfloat16")


def test_a_limit_on_onednns_instructions_rules_bfloat16_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openvino.Core.get_property", lambda *_: ["BF16", "FP32"])
    for name in ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)
    assert multiplies_bfloat16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX")
    assert multiplies_bfloat16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert not multiplies_bfloat16()


def test_a_graph_that_cannot_be_loaded_is_named(tiny_export, tmp_path: Path) -> None:
    repository = tiny_export()
    (repository / "pose_decoder" / "1" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="pose_decoder: cannot be loaded"):
        OpenVinoEngine(repository, read_manifest(repository), threads=1)


def test_an_engine_whose_library_is_missing_is_named_with_its_extra(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(tiny_repository)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert installed_engines() == ("onnxruntime",)
    with pytest.raises(EngineError, match=r"capeserve\[openvino\]"):
        load_engine("openvino", tiny_repository, manifest)
    with pytest.raises(EngineError, match="bfloat16 needs engine openvino"):
        load_engine("onnxruntime", tiny_repository, manifest, precision="bfloat16")


@pytest.mark.parametrize(
    ("installed", "ours", "asked", "expected"),
    [
        (["CPUExecutionProvider"], True, (), "openvino"),
        (["CPUExecutionProvider"], False, (), "onnxruntime"),
        (["CPUExecutionProvider"], True, ("CPUExecutionProvider",), "onnxruntime"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], True, (), "onnxruntime"),
        (["AzureExecutionProvider", "CPUExecutionProvider"], True, (), "openvino"),
    ],
)
def test_unless_told_otherwise_it_runs_where_it_is_installed_and_nothing_is_faster(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], ours: bool, asked: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: installed)
    monkeypatch.setattr("service.engines.choice.installed_engines", lambda: ("onnxruntime", *["openvino"] * ours))
    assert best_engine(asked) == expected


def test_a_tensorrt_plug_in_is_left_to_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engines.rtx_plugin.is_installed", lambda: True)
    assert best_engine() == "onnxruntime"


def test_auto_loads_the_best_engine(tiny_repository: Path) -> None:
    engine = load_engine("auto", tiny_repository, read_manifest(tiny_repository), threads=1)
    assert engine.description.startswith(best_engine())
    engine.close()


def test_a_server_with_it_answers_as_with_onnx_runtime(tiny_repository: Path) -> None:
    answers = []
    for engine in ("onnxruntime", "openvino"):
        with LiveServer(settings_for(tiny_repository, engine=engine)) as live:
            answers.append(points(live.poses.EstimatePose(query()).instances[0]))
    np.testing.assert_allclose(answers[0], answers[1], atol=0.02)  # pixels
