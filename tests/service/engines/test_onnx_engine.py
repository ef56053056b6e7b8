"""ONNX Runtime in process: what is loaded, what is returned, and what is refused."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from cape.manifest import MODEL_FILE, Manifest
from service.engines.base import CPU_BATCH
from service.engines.choice import rtx_plugin
from service.engines.onnx_runtime import OnnxRuntimeEngine
from service.errors import EngineError
from service.process.cpus import available_cpus

CPU = ["CPUExecutionProvider"]


def write_component(repository: Path) -> None:
    """Writes a graph: doubled = x + x [B, K, 2], and ratio = x / x, NaN where x is 0."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["doubled"]), helper.make_node("Div", ["x", "x"], ["ratio"])],
        "doubler",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "K", 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "K", 2]) for name in ("doubled", "ratio")],
    )
    path = repository / "doubler" / MODEL_FILE
    path.parent.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def manifest(doubled: tuple[int | str, ...] = ("B", "K", 2)) -> Manifest:
    tensor = {"dtype": "float32", "shape": ("B", "K", 2)}
    return Manifest.model_validate(
        {
            "capeserve_version": "0",
            "created": "2026-01-01T00:00:00Z",
            "image_size": 4,
            "box_padding": 1.25,
            "max_keypoints": 4,
            "keypoint_buckets": (4,),
            "max_shots": 1,
            "components": {
                "doubler": {
                    "inputs": [tensor | {"name": "x"}],
                    "outputs": [
                        {"name": "doubled", "dtype": "float32", "shape": doubled},
                        tensor | {"name": "ratio"},
                    ],
                    "max_batch_size": 4,
                    "sha256": "0" * 64,
                    "bytes": 1,
                    "parameters": 0,
                }
            },
            "systems": {
                "none": {
                    "components": {"pose_decoder": "doubler"},
                    "backbone": "none",
                    "backbone_channels": 1,
                    "feature_size": 1,
                    "similarity_size": 1,
                    "model_width": 1,
                    "pathways": 1,
                    "modalities": {"image": "required", "text": "unused"},
                    "parameters": 1,
                }
            },
            "source": {"checkpoint": "none", "sha256": "0" * 64, "trained": False},
        }
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_component(folder)
    return folder


@pytest.fixture(scope="module")
def engine(repository: Path) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(repository, manifest(), threads=1, providers=CPU)


def ones(batch: int = 2, keypoints: int = 3) -> np.ndarray:
    return np.ones((batch, keypoints, 2), dtype=np.float32)


def test_a_component_runs_with_any_batch_and_any_number_of_keypoints(engine: OnnxRuntimeEngine) -> None:
    for batch, keypoints in ((1, 1), (4, 7)):
        results = engine.run("doubler", {"x": ones(batch, keypoints)}, ["doubled"])
        np.testing.assert_array_equal(results["doubled"], np.full((batch, keypoints, 2), 2))


def test_only_wanted_outputs_are_returned(engine: OnnxRuntimeEngine) -> None:
    assert set(engine.run("doubler", {"x": ones()}, ["ratio"])) == {"ratio"}


def test_the_engine_says_what_runs_the_model(engine: OnnxRuntimeEngine) -> None:
    assert engine.description == "onnxruntime:CPUExecutionProvider"
    assert (engine.concurrency, engine.useful_batch) == (1, CPU_BATCH)


@pytest.mark.parametrize(
    ("component", "inputs", "outputs", "message"),
    [
        ("tripler", {"x": ones()}, ["doubled"], "tripler: no such component"),
        ("doubler", {"y": ones()}, ["doubled"], "doubler: expects x; got y"),
        ("doubler", {}, ["doubled"], "doubler: expects x; got nothing"),
        ("doubler", {"x": ones()}, ["tripled"], "doubler: asked for tripled, has doubled, ratio"),
        ("doubler", {"x": ones()[..., :1]}, ["doubled"], r"doubler: x is float32 \[2, 3, 1\], not float32 \['B'"),
        ("doubler", {"x": ones()[0]}, ["doubled"], r"doubler: x is float32 \[3, 2\]"),
        ("doubler", {"x": ones().astype(np.float64)}, ["doubled"], "doubler: x is float64"),
    ],
)
def test_what_the_manifest_does_not_describe_is_refused(
    engine: OnnxRuntimeEngine, component: str, inputs: dict[str, np.ndarray], outputs: list[str], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        engine.run(component, inputs, outputs)


def test_a_nan_in_an_answer_is_an_error_and_not_an_answer(engine: OnnxRuntimeEngine) -> None:
    with pytest.raises(EngineError, match="doubler: ratio holds NaN"):
        engine.run("doubler", {"x": np.zeros((1, 1, 2), dtype=np.float32)}, ["doubled", "ratio"])


@pytest.mark.parametrize("shape", [("B", "K", 3), ("B", "B", 2), ("B", "K")])
def test_an_output_of_another_shape_than_the_manifest_says_is_an_error(
    repository: Path, shape: tuple[int | str, ...]
) -> None:
    engine = OnnxRuntimeEngine(repository, manifest(doubled=shape), threads=1, providers=CPU)
    with pytest.raises(EngineError, match=r"doubler: doubled is float32 \[2, 3, 2\]"):
        engine.run("doubler", {"x": ones()}, ["doubled"])


def test_threads_may_run_components_at_the_same_time(engine: OnnxRuntimeEngine) -> None:
    wrong: list[int] = []

    def work(value: int) -> None:
        for _ in range(50):
            doubled = engine.run("doubler", {"x": ones() * value}, ["doubled"])["doubled"]
            if not (doubled == 2 * value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda path: path.write_bytes(b"no graph")], ids=["missing", "no graph"]
)
def test_a_graph_that_cannot_be_loaded_is_named(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    write_component(tmp_path)
    spoil(tmp_path / "doubler" / MODEL_FILE)
    with pytest.raises(EngineError, match="doubler: cannot be loaded"):
        OnnxRuntimeEngine(tmp_path, manifest(), providers=CPU)


def test_a_provider_that_is_not_installed_is_refused_with_a_list_of_those_that_are(repository: Path) -> None:
    with pytest.raises(EngineError, match=r"no FasterExecutionProvider here; installed are .*CPUExecutionProvider"):
        OnnxRuntimeEngine(repository, manifest(), providers=["FasterExecutionProvider"])


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package like NVIDIA's, whose library is none."""
    package = tmp_path / "packages" / rtx_plugin.PACKAGE
    package.mkdir(parents=True)
    library = package / "libprovider.so"
    library.write_bytes(b"no library")
    (package / "__init__.py").write_text(f"def get_library_path():\n    return {str(library)!r}\n")
    monkeypatch.syspath_prepend(package.parent)
    rtx_plugin.devices.cache_clear()
    yield str(library)
    sys.modules.pop(rtx_plugin.PACKAGE, None)
    rtx_plugin.devices.cache_clear()


def test_tensorrt_for_rtx_that_is_not_installed_is_refused_with_how_to_get_it(repository: Path) -> None:
    with pytest.raises(EngineError, match="pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"):
        OnnxRuntimeEngine(repository, manifest(), providers=[rtx_plugin.PROVIDER])


def test_a_plug_in_that_does_not_load_is_refused_where_it_is_demanded_and_else_done_without(
    repository: Path, plug_in: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EngineError, match=f"{rtx_plugin.PROVIDER} does not load: .*{plug_in}"):
        OnnxRuntimeEngine(repository, manifest(), providers=[rtx_plugin.PROVIDER])
    engine = OnnxRuntimeEngine(repository, manifest())
    assert "going on without" in caplog.text
    assert engine.description == "onnxruntime:CPUExecutionProvider"


@pytest.mark.parametrize(("provider", "loads"), [("CUDAExecutionProvider", 1), ("CPUExecutionProvider", 0)])
def test_cudas_libraries_are_loaded_for_those_who_need_them_and_a_cpu_is_no_card_in_disguise(
    repository: Path, monkeypatch: pytest.MonkeyPatch, provider: str, loads: int
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    loaded: list[bool] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: loaded.append(True))
    complaint = pytest.raises(EngineError, match="CUDAExecutionProvider does not work here") if loads else nullcontext()
    with complaint, pytest.warns(UserWarning) if loads else nullcontext():
        OnnxRuntimeEngine(repository, manifest(), threads=1, providers=[provider])
    assert len(loaded) == loads


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None), ("99900000 100000", None), (None, None)],
)
def test_a_containers_quota_limits_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, cpus: int | None
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert available_cpus(tmp_path, tmp_path / "none") == (cpus or 6)


def test_a_quota_that_is_no_whole_number_is_rounded_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert available_cpus(tmp_path, tmp_path / "none") == 2


@pytest.mark.parametrize(("quota", "cpus"), [("250000", 3), ("-1", 6)])
def test_quotas_of_the_first_version_of_control_groups_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cpus: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cpus(tmp_path, tmp_path / "none") == cpus


@pytest.mark.parametrize(
    ("group", "folder"), [("0::/pods/mine", "pods"), ("4:cpu,cpuacct:/pods/mine", "cpu,cpuacct/pods/mine")]
)
def test_a_quota_of_the_own_group_or_one_above_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, folder: str
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    (tmp_path / "own").write_text(f"9:memory:/elsewhere\n{group}\n")
    (tmp_path / folder).mkdir(parents=True)
    if group.startswith("0"):
        (tmp_path / folder / "cpu.max").write_text("200000 100000\n")
    else:
        (tmp_path / folder / "cpu.cfs_quota_us").write_text("200000\n")
        (tmp_path / folder / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cpus(tmp_path, tmp_path / "own") == 2
