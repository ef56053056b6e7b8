"""What Kubernetes is told: start, readiness and life, over gRPC and over HTTP."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from numpy_engine import NumpyEngine
from prometheus_client import CollectorRegistry

from cape.v1 import model_service_pb2
from service.probes import ServerState, start_http
from service.server import LIVENESS
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import query

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Runner:
    """What a probe looks at of a runner."""

    def __init__(self, healthy: bool = True, hanging: bool = False) -> None:
        self.healthy, self.hanging = healthy, hanging


def status_of(address: str, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("runner", "listening", "ready", "alive"),
    [
        (Runner(), True, 200, 200),
        (Runner(), False, 503, 200),
        (Runner(healthy=False), True, 503, 200),  # Triton is away: a restart would not bring it back
        (Runner(healthy=False, hanging=True), True, 503, 503),
    ],
)
def test_readiness_and_life_are_told_apart(runner: Runner, listening: bool, ready: int, alive: int) -> None:
    state = ServerState(runner)
    state.listening = listening
    port = free_port()
    stop = start_http("127.0.0.1", port, CollectorRegistry(), state)
    try:
        address = f"127.0.0.1:{port}"
        assert (status_of(address, "/readyz"), status_of(address, "/livez")) == (ready, alive)
        assert status_of(address, "/metrics") == 200
    finally:
        stop()


def test_a_server_is_ready_while_it_serves_and_gone_when_it_is_not(tiny_repository: Path) -> None:
    port = free_port()
    with LiveServer(settings_for(tiny_repository, metrics_port=port)) as server:
        assert status_of(f"127.0.0.1:{port}", "/readyz") == 200
        for service in ("", LIVENESS):
            assert server.health.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
    with pytest.raises(OSError):
        status_of(f"127.0.0.1:{port}", "/readyz")


def test_a_hanging_engine_ends_readiness_and_life_until_it_answers_again(tiny_repository: Path) -> None:
    engine = NumpyEngine()
    release = threading.Event()
    engine.run = lambda *_: release.wait()  # type: ignore[method-assign]
    with LiveServer(settings_for(tiny_repository, hang_seconds=0.2), engine) as server:

        def becomes(service: str, wanted: int) -> bool:
            return _soon(lambda: server.health.Check(health_pb2.HealthCheckRequest(service=service)).status == wanted)

        with pytest.raises(grpc.RpcError):
            server.poses.EstimatePose(query())
        assert becomes(LIVENESS, NOT_SERVING)
        assert becomes("", NOT_SERVING)
        release.set()
        assert becomes(LIVENESS, SERVING)


def _soon(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_old_connections_are_renewed_and_no_call_is_lost(tiny_repository: Path) -> None:
    with LiveServer(settings_for(tiny_repository, max_connection_age_seconds=0.5)) as server:
        peers = set()
        end = time.monotonic() + 4
        while time.monotonic() < end:
            _, call = server.models.ListModels.with_call(model_service_pb2.ListModelsRequest())
            assert call.code() is grpc.StatusCode.OK
            peers.add(_connections(server))
        assert len(peers) > 1


def _connections(server: LiveServer) -> tuple[str, ...]:
    """Local ports that are connected to the server, from Linux's tables."""
    port = f":{server.server.port:04X}"
    tables = [Path(f"/proc/self/net/{name}").read_text() for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    return tuple(sorted(line[1] for line in lines if line[2].endswith(port) and line[3] == "01"))
