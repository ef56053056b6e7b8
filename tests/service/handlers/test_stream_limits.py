"""Reflection in both versions, and limits on streams that need no token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from service.handlers.stream_limits import MAX_STREAMS_OF_A_CONNECTION
from tests.service.live_server import LiveServer, settings_for


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[LiveServer]:
    with LiveServer(settings_for(tiny_repository)) as live:
        yield live


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_services_are_listed_by_reflection(server: LiveServer, version: str) -> None:
    call = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    assert "cape.v1.PoseService" in {service.name for service in answer.list_services_response.service}


def test_health_watches_of_a_connection_are_limited_and_end_with_their_client(server: LiveServer) -> None:
    request = health_pb2.HealthCheckRequest()
    watches = [server.health.Watch(request) for _ in range(MAX_STREAMS_OF_A_CONNECTION)]
    assert all(next(watch).status == health_pb2.HealthCheckResponse.SERVING for watch in watches)
    with pytest.raises(grpc.RpcError) as error:
        next(server.health.Watch(request))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
    for watch in watches:
        watch.cancel()
