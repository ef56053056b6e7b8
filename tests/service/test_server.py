"""The server as its surroundings see it: health, reflection, metrics, start and stop."""

from __future__ import annotations

import shutil
import socket
import threading
import urllib.request
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cape.v1 import pose_service_pb2
from service.errors import DeadlineError, EngineError
from service.handlers.error_statuses import grpc_code, status_of
from service.server import SERVICES, StartError, running_server
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import encoded, photograph, query

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_every_service_reports_its_health(live: LiveServer, service: str) -> None:
    assert live.health.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_health_follows_the_engine(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = live.health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]))
    assert next(watch).status == SERVING
    monkeypatch.setattr(type(live.server.application.runner), "healthy", False)
    assert next(watch).status == NOT_SERVING
    monkeypatch.undo()
    assert next(watch).status == SERVING
    watch.cancel()


def test_reflection_lists_the_services(live: LiveServer) -> None:
    assert set(SERVICES) <= set(ProtoReflectionDescriptorDatabase(live.channel).get_services())


def test_a_client_that_knows_nothing_but_reflection_gets_an_answer(live: LiveServer) -> None:
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(live.channel))

    def call(service: str, method: str, fields: dict[str, object]) -> Message:
        descriptor = pool.FindServiceByName(f"cape.v1.{service}").FindMethodByName(method)
        request = message_factory.GetMessageClass(descriptor.input_type)(**fields)
        answer = message_factory.GetMessageClass(descriptor.output_type)
        path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        return live.channel.unary_unary(path, type(request).SerializeToString, answer.FromString)(request)

    image = {"encoded": encoded(photograph())}
    support = {
        "category": "cat",
        "keypoints": [{"name": "nose"}],
        "examples": [{"image": image, "keypoints": [{"x": 10, "y": 20}]}],
    }
    created = call("SupportService", "CreateSupport", {"support": support})
    answer = call("PoseService", "EstimatePose", {"image": image, "support": created.support.name})
    assert answer.instances[0].keypoints[0].name == "nose"
    call("SupportService", "DeleteSupport", {"name": created.support.name})


def test_reflection_can_be_turned_off(tiny_repository: Path) -> None:
    with LiveServer(settings_for(tiny_repository, reflection=False)) as server:
        with pytest.raises(grpc.RpcError) as caught:
            ProtoReflectionDescriptorDatabase(server.channel).get_services()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_prometheus_reads_the_metrics_on_their_own_port(tiny_repository: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    with LiveServer(settings_for(tiny_repository, metrics_port=port)) as server:
        server.poses.EstimatePose(query())
        with urllib.request.urlopen(url) as answer:
            text = answer.read().decode()
        assert 'capeserve_requests_total{code="OK",method="EstimatePose"} 1.0' in text
        assert 'capeserve_stage_duration_seconds_count{stage="backbone"} 1.0' in text
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)


async def test_a_port_that_is_taken_is_named(tiny_repository: Path, live: LiveServer) -> None:
    with pytest.raises(StartError, match=str(live.server.port)):
        async with running_server(settings_for(tiny_repository, port=live.server.port)):
            pass


async def test_a_metrics_port_that_is_taken_is_named(tiny_repository: Path, live: LiveServer) -> None:
    with pytest.raises(StartError, match=f"{live.server.port} for metrics"):
        async with running_server(settings_for(tiny_repository, metrics_port=live.server.port)):
            pass


async def test_an_unknown_default_system_is_named(tiny_repository: Path) -> None:
    with pytest.raises(StartError, match="flf"):
        async with running_server(settings_for(tiny_repository, default_system="nonsense")):
            pass


async def test_a_damaged_graph_is_named(tiny_repository: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_repository, damaged)
    (damaged / "pose_decoder" / "1" / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(StartError, match="pose_decoder"):
        async with running_server(settings_for(damaged)):
            pass


def test_watches_and_idle_streams_do_not_hold_up_the_end(tiny_repository: Path) -> None:
    with LiveServer(settings_for(tiny_repository, drain_seconds=600)) as server:
        watch = server.health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        never = threading.Event()

        def requests():
            yield pose_service_pb2.StreamEstimatePoseRequest(request_id="1", request=query())
            never.wait()

        stream = server.poses.StreamEstimatePose(requests())
        assert next(stream).request_id == "1"
        server.stop()
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert next(watch).status == NOT_SERVING, "said before the connection is cut"
        never.set()


def test_unexpected_errors_keep_their_text_to_themselves(caplog: pytest.LogCaptureFixture) -> None:
    status = status_of(RuntimeError("password is hunter2"))
    assert grpc_code(status) is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(status)
    number = status.message.rpartition(" ")[2]
    assert number in caplog.text
    assert "hunter2" in caplog.text


def test_errors_of_the_engine_and_the_clock_have_codes_of_their_own() -> None:
    engine = status_of(EngineError("pose_decoder", "/secret/path/model.onnx is broken"))
    assert grpc_code(engine) is grpc.StatusCode.UNAVAILABLE
    assert "pose_decoder" in engine.message
    assert "secret" not in str(engine)
    assert grpc_code(status_of(DeadlineError("late"))) is grpc.StatusCode.DEADLINE_EXCEEDED
