"""The exported repository on a real Triton server: right answers, shared batches, named failures."""

from __future__ import annotations

import importlib
import io
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from cape.manifest import Manifest, read_manifest
from export.triton.local import environment
from export.triton.local.environment import Installation, TritonSetupError
from export.triton.local.server import Ports, TritonProcess, TritonStartError, triton_server
from service.engines.onnx_runtime import OnnxRuntimeEngine
from tests.triton_client import counter, embedded_answer, infer, one_shot_request

CALLERS = 32


@pytest.fixture(scope="module")
def manifest(triton_repository: Path) -> Manifest:
    return read_manifest(triton_repository)


@pytest.fixture(scope="module")
def engine(triton_repository: Path, manifest: Manifest) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(triton_repository, manifest, threads=1)


@pytest.mark.parametrize("protocol", [tritonclient.grpc, tritonclient.http])
@pytest.mark.parametrize("system", ["flf", "dlf"])
def test_a_plain_client_drives_the_ensembles(
    triton: TritonProcess, engine: OnnxRuntimeEngine, manifest: Manifest, protocol: ModuleType, system: str
) -> None:
    url = triton.grpc if protocol is tritonclient.grpc else triton.http
    request = one_shot_request(seed=1)
    expected = embedded_answer(engine, manifest, system, request)
    pose = ["keypoints", "scores", "similarity", "proposals"]
    whole = infer(protocol, url, system, request, pose)
    support = {name: array for name, array in request.items() if name not in ("image", "adjacency")}
    tokens = infer(protocol, url, f"{system}_support", support, ["support_tokens", "mask"])
    query = {"image": request["image"], "adjacency": request["adjacency"], **tokens}
    in_two_steps = infer(protocol, url, f"{system}_query", query, pose)
    for name in pose:
        np.testing.assert_allclose(whole[name], expected[name], atol=1e-4)
        np.testing.assert_allclose(in_two_steps[name], expected[name], atol=1e-4)
    np.testing.assert_array_equal(tokens["mask"], expected["mask"])


def test_requests_of_many_callers_share_runs_and_everyone_gets_its_own_answer(
    triton: TritonProcess, engine: OnnxRuntimeEngine, manifest: Manifest
) -> None:
    requests = [one_shot_request(seed=100 + caller) for caller in range(CALLERS)]
    names = ("nv_inference_count", "nv_inference_exec_count")
    before = [counter(triton, name, "image_backbone") for name in names]
    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(
            pool.map(
                lambda request: infer(tritonclient.grpc, triton.grpc, "flf", request, ["keypoints", "scores"]), requests
            )
        )
    images, runs = (counter(triton, name, "image_backbone") - old for name, old in zip(names, before, strict=True))
    assert images == 2 * CALLERS
    assert runs <= images / 2, f"{images:.0f} images in {runs:.0f} runs"
    for request, answer in zip(requests, answers, strict=True):
        expected = embedded_answer(engine, manifest, "flf", request)
        np.testing.assert_allclose(answer["keypoints"], expected["keypoints"], atol=1e-4)
        np.testing.assert_allclose(answer["scores"], expected["scores"], atol=1e-4)


def test_supports_of_different_sizes_do_not_mix(
    triton: TritonProcess, engine: OnnxRuntimeEngine, manifest: Manifest
) -> None:
    requests = [one_shot_request(seed=300 + size, keypoints=size) for size in (1, 3, 3, 17, 17, 100)]
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(
            pool.map(lambda request: infer(tritonclient.grpc, triton.grpc, "flf", request, ["keypoints"]), requests)
        )
    for request, answer in zip(requests, answers, strict=True):
        expected = embedded_answer(engine, manifest, "flf", request)
        np.testing.assert_allclose(answer["keypoints"], expected["keypoints"], atol=1e-4)


def test_repeated_texts_come_out_of_the_response_cache(triton: TritonProcess) -> None:
    texts = {"input_ids": np.full((1, 3, 8), 77), "attention_mask": np.ones((1, 3, 8), np.int64)}
    hits, runs = (
        counter(triton, f"nv_{name}", "text_encoder") for name in ("cache_num_hits_per_model", "inference_exec_count")
    )
    first, again = (infer(tritonclient.grpc, triton.grpc, "text_encoder", texts, ["embeddings"]) for _ in range(2))
    np.testing.assert_array_equal(first["embeddings"], again["embeddings"])
    assert counter(triton, "nv_cache_num_hits_per_model", "text_encoder") == hits + 1
    assert counter(triton, "nv_inference_exec_count", "text_encoder") == runs + 1


def test_a_wrong_request_is_refused_with_the_reason(triton: TritonProcess) -> None:
    request = one_shot_request(seed=1)
    request["adjacency"] = np.zeros((1, 4, 5), np.float32)
    with pytest.raises(InferenceServerException, match=r"adjacency|pose_decoder|dimension|broadcast|shape"):
        infer(tritonclient.grpc, triton.grpc, "flf", request, ["keypoints"])
    request = one_shot_request(seed=1)
    assert infer(tritonclient.grpc, triton.grpc, "flf", request, ["keypoints"])["keypoints"].shape == (1, 5, 2)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("pose_decoder/1/model.onnx", b"not a graph", r"pose_decoder: .*pose_decoder/1/model\.onnx: cannot be loaded"),
        ("pose_decoder/1/model.onnx", None, r"pose_decoder/1/model\.onnx: missing"),
        ("text_encoder/config.pbtxt", None, r"text_encoder/config\.pbtxt: missing"),
        ("cape.json", None, r"cape\.json: No such file"),
    ],
    ids=["broken graph", "missing graph", "missing configuration", "missing manifest"],
)
def test_what_is_wrong_with_a_repository_is_said_by_name(
    triton_installation: Installation, tiny_export, file: str, content: bytes | None, complaint: str
) -> None:
    repository = tiny_export("flf")
    if content is None:
        (repository / file).unlink()
    else:
        (repository / file).write_bytes(content)
    with (
        pytest.raises(TritonStartError, match=complaint),
        triton_server(triton_installation, repository, log=io.BytesIO(), ports=Ports(0, 0, 0)),
    ):
        pass


def test_a_port_that_is_taken_is_named(
    triton: TritonProcess, triton_installation: Installation, tiny_repository: Path
) -> None:
    port = int(triton.grpc.rpartition(":")[2])
    with (
        pytest.raises(TritonStartError, match=f"cannot listen on 127.0.0.1:{port}"),
        triton_server(triton_installation, tiny_repository, log=io.BytesIO(), ports=Ports(0, port, 0)),
    ):
        pass


@pytest.mark.parametrize(
    ("victim", "number", "code"), [("command", signal.SIGTERM, 0), ("server", signal.SIGKILL, 137)]
)
def test_the_command_passes_on_signals_and_exit_codes(
    triton_installation: Installation, tiny_repository: Path, victim: str, number: int, code: int
) -> None:
    del triton_installation  # installed before the command looks for it
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    command = [
        sys.executable,
        "-c",
        "from cli.main import main; main()",
        "triton",
        "--repository",
        str(tiny_repository),
    ]
    with subprocess.Popen([*command, *ports], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        log = ""
        for line in process.stderr:
            log += line
            if "Triton is ready" in line:
                break
        assert re.search(r"Triton is ready: gRPC 127\.0\.0\.1:\d+", log), log
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (server,) = [int(child) for child in children]
        os.kill(process.pid if victim == "command" else server, number)
        process.communicate(timeout=60)
        assert process.returncode == code
        assert not Path(f"/proc/{server}").exists()


def test_a_machine_that_the_wheel_is_not_for_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment.platform, "machine", lambda: "aarch64")
    with pytest.raises(TritonSetupError, match=r"needs Linux on x86-64.*aarch64.*NVIDIA's container"):
        environment.install(tmp_path)


def test_an_installation_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment.sys, "executable", "/bin/false")
    with pytest.raises(TritonSetupError, match=r"venv .* failed"):
        environment.install(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("device", "package"), [("cpu", "onnxruntime>="), ("gpu", "onnxruntime-gpu[cuda,cudnn]>=")])
def test_each_device_has_an_environment_with_its_own_onnx_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: environment.Device, package: str
) -> None:
    commands: list[tuple[str, ...]] = []

    def run(*command: str) -> None:
        commands.append(command)
        if any(argument.startswith("onnxruntime") for argument in command):
            raise TritonSetupError("enough")

    monkeypatch.setattr(environment, "_run", run)
    with pytest.raises(TritonSetupError, match="enough"):
        environment.install(tmp_path, device=device)
    assert any(argument.startswith(package) for argument in commands[-1])
    assert environment._fingerprint("cpu") != environment._fingerprint("gpu")


def test_a_gpu_whose_libraries_do_not_load_is_no_cpu_in_disguise(
    monkeypatch: pytest.MonkeyPatch, tiny_repository: Path
) -> None:
    """In this process: the server itself refuses GPU models where it sees no GPU."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    utilities = ModuleType("triton_python_backend_utils")
    utilities.TritonModelException = RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, utilities.__name__, utilities)
    monkeypatch.delitem(sys.modules, "export.triton.local.backend", raising=False)
    backend = importlib.import_module("export.triton.local.backend")
    arguments = {
        "model_config": "{}",
        "model_repository": str(tiny_repository / "pose_decoder"),
        "model_version": "1",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }
    backend.TritonPythonModel().initialize(arguments)
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider does not load"):
        backend.TritonPythonModel().initialize(arguments | {"model_instance_kind": "GPU"})
    monkeypatch.delitem(sys.modules, "export.triton.local.backend")
