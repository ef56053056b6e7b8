"""What Kubernetes is told: readiness, and life, which are not the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from cape.v1 import model_service_pb2
from service.server import LIVENESS
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import query
from tests.service.numpy_engine import NumpyEngine

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def test_triton_away_ends_readiness_but_not_life(tiny_repository: Path) -> None:
    settings = settings_for(tiny_repository, engine="triton", triton_url="127.0.0.1:1")
    with LiveServer(settings) as server:

        def status(service: str) -> int:
            return server.health.Check(health_pb2.HealthCheckRequest(service=service)).status

        assert _soon(lambda: status("") == NOT_SERVING)
        assert status(LIVENESS) == SERVING, "a restart would not bring Triton back"


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
