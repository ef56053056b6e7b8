"""`capeserve serve` as a process of its own: a clean end, clear complaints, and nothing heavy installed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cape.v1 import pose_service_pb2, support_service_pb2
from tests.service.live_server import START, ServerProcess
from tests.service.messages import cat_support, query
from tests.service.test_server import free_port

WITHOUT_EXTRAS = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors", "onnx", "onnxscript", "tritonclient"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""
"""Python that makes what the extras bring look as if it were not there."""


def flags(repository: Path, registry: Path) -> list[object]:
    """Command line of a server on a free port."""
    return [
        *("--repository", repository, "--port", 0, "--metrics-port", 0),
        *("--registry", f"sqlite:///{registry}", "--threads", 1),
    ]


def test_sigterm_under_load_finishes_what_runs_and_exits_with_0(tiny_repository: Path, tmp_path: Path) -> None:
    with ServerProcess(*flags(tiny_repository, tmp_path / "supports.sqlite3")) as server:
        name = server.supports.CreateSupport(
            support_service_pb2.CreateSupportRequest(support=cat_support())
        ).support.name
        refusals: list[grpc.RpcError] = []
        answered = threading.Semaphore(0)

        def call_until_refused() -> None:
            try:
                while True:
                    assert server.poses.EstimatePose(query(support=name)).instances
                    answered.release()
            except grpc.RpcError as error:
                refusals.append(error)

        callers = [threading.Thread(target=call_until_refused) for _ in range(4)]
        batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[query(support=name)] * 128)
        running = server.poses.BatchEstimatePose.future(batch)
        for caller in callers:
            caller.start()
        for _ in range(12):
            answered.acquire()
        assert not running.done(), "the batch must still be running for this test to say anything"
        server.process.send_signal(signal.SIGTERM)
        assert all(result.HasField("response") for result in running.result().results)
        for caller in callers:
            caller.join()
        assert {error.code() for error in refusals} == {grpc.StatusCode.UNAVAILABLE}
        _, rest = server.process.communicate(timeout=60)
        assert server.process.returncode == 0
        assert "Traceback" not in server.log + rest


def test_readiness_drops_first_while_what_runs_is_finished(tiny_repository: Path, tmp_path: Path) -> None:
    port = free_port()
    arguments = [*flags(tiny_repository, tmp_path / "supports.sqlite3"), "--health-port", port]
    # A busy machine may take longer than usual for the batch.
    arguments += ["--drain-seconds", 300, "--default-deadline-seconds", 300]
    with ServerProcess(*arguments) as server, grpc.insecure_channel(f"127.0.0.1:{port}") as probes:
        batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[query()] * 128)
        watches = [
            stub.Watch(health_pb2.HealthCheckRequest()) for stub in (server.health, health_pb2_grpc.HealthStub(probes))
        ]
        assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.SERVING] * 2
        running = server.poses.BatchEstimatePose.future(batch)
        assert server.poses.EstimatePose(query()).instances
        server.process.send_signal(signal.SIGTERM)
        assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2
        assert not running.done(), "the batch must still be running for this test to say anything"
        assert all(result.HasField("response") for result in running.result().results)
        assert server.process.wait(timeout=60) == 0


def test_the_base_install_serves_without_torch_or_transformers(tiny_repository: Path, tmp_path: Path) -> None:
    arguments = flags(tiny_repository, tmp_path / "supports.sqlite3")
    with ServerProcess(*arguments, prologue=WITHOUT_EXTRAS) as server:
        assert server.poses.EstimatePose(query()).instances
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0


def test_the_extra_that_triton_needs_is_named(tiny_repository: Path, tmp_path: Path) -> None:
    arguments = [*flags(tiny_repository, tmp_path / "supports.sqlite3"), "--engine", "triton"]
    command = [sys.executable, "-c", f"{WITHOUT_EXTRAS}\n{START}", "serve", *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "engine triton needs tritonclient: pip install 'capeserve[triton]'" in finished.stderr.splitlines()[-1]


def test_supports_survive_kill_9(tiny_repository: Path, tmp_path: Path) -> None:
    arguments = flags(tiny_repository, tmp_path / "supports.sqlite3")
    with ServerProcess(*arguments) as server:
        name = server.supports.CreateSupport(
            support_service_pb2.CreateSupportRequest(support=cat_support())
        ).support.name
        server.process.kill()
        server.process.wait()
    with ServerProcess(*arguments) as server:
        assert server.poses.EstimatePose(query(support=name)).instances


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "repository is required"),
        (["--repository", "/nowhere"], 1, "/nowhere: no such folder"),
        (["--repository", "/nowhere", "--port", "many"], 2, "port"),
        (["--repository", "/nowhere", "--config", "/nowhere.yaml"], 2, "/nowhere.yaml"),
    ],
)
def test_what_keeps_a_server_from_starting_is_said_in_a_line(arguments: list[str], code: int, complaint: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", START, "serve", *arguments], capture_output=True, text=True, check=False
    )
    assert finished.returncode == code
    assert complaint in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


def test_settings_are_logged_as_json_when_asked_for(tiny_repository: Path, tmp_path: Path) -> None:
    arguments = [*flags(tiny_repository, tmp_path / "supports.sqlite3"), "--log-format", "json"]
    with ServerProcess(*arguments) as server:
        first = json.loads(server.log.splitlines()[0])
        assert first["level"] == "info"
        assert "max_boxes=64" in first["message"]
