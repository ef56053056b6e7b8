"""Channel arguments have the names that gRPC knows; it ignores others without a word."""

from __future__ import annotations

import asyncio
import re
import resource
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc

from cape.v1 import pose_service_pb2
from service import grpc_options
from service.grpc_options import health_options, server_options
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import query

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path(cygrpc.__file__).read_bytes()


def is_known(option: str) -> bool:
    return option.encode() + b"\0" in LIBRARY


def test_every_channel_argument_in_the_code_is_known_to_grpc() -> None:
    used = set()
    for room in ("service", "cape", "benchmarks", "export", "gateway", "cli"):
        for path in (ROOT / room).rglob("*.py"):
            used |= set(re.findall(r'\(\s*"(grpc\.[a-z0-9_.]+)",', path.read_text()))
    assert "grpc.keepalive_time_ms" in used
    assert {option for option in used if not is_known(option)} == set()


def test_the_check_finds_a_name_that_grpc_does_not_know() -> None:
    assert not is_known("grpc.http2.min_recv_ping_interval_without_data_ms")
    assert is_known("grpc.http2.min_ping_interval_without_data_ms")


def test_options_do_not_repeat_a_name(tiny_repository: Path) -> None:
    for options in (server_options(settings_for(tiny_repository)), health_options()):
        names = [name for name, _ in options]
        assert len(names) == len(set(names))


def hold_a_stream(server: LiveServer, ping_milliseconds: int, seconds: float) -> None:
    """Opens a stream, lets it rest while the client pings, and asks for an answer at the end."""
    options = (
        ("grpc.keepalive_time_ms", ping_milliseconds),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    )
    over = threading.Event()

    def requests():
        yield pose_service_pb2.StreamEstimatePoseRequest(request_id="first", request=query())
        over.wait(seconds)
        yield pose_service_pb2.StreamEstimatePoseRequest(request_id="last", request=query())

    with grpc.insecure_channel(server.server.target, options=options) as channel:
        stub = type(server.poses)(channel)
        answers = [answer.request_id for answer in stub.StreamEstimatePose(requests())]
    assert answers == ["first", "last"]


def test_a_resting_stream_with_frequent_pings_stays_open(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_options, "PING_MILLISECONDS", 50)
    with LiveServer(settings_for(tiny_repository)) as server:
        hold_a_stream(server, ping_milliseconds=100, seconds=1.5)


@pytest.mark.slow
def test_a_stream_with_pings_every_10_seconds_stays_open_for_over_a_minute(tiny_repository: Path) -> None:
    with LiveServer(settings_for(tiny_repository)) as server:
        hold_a_stream(server, ping_milliseconds=10_000, seconds=65)


def test_connections_beyond_the_limit_are_closed_and_those_below_work(tiny_repository: Path) -> None:
    with LiveServer(settings_for(tiny_repository, max_connections=3)) as server:
        assert server.poses.EstimatePose(query())
        host, port = server.server.host, server.server.port

        async def closed() -> int:
            async def is_closed() -> bool:
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
                try:
                    while await asyncio.wait_for(reader.read(4096), 1):
                        pass
                except TimeoutError:
                    return False
                except ConnectionError:
                    pass
                return True

            return sum(await asyncio.gather(*(is_closed() for _ in range(8))))

        assert asyncio.run(closed()) >= 6
        assert server.poses.EstimatePose(query())


def test_the_limit_on_connections_leaves_descriptors_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(grpc_options, "_open_descriptors", lambda: 40)
    assert grpc_options.connection_limit(1000) == 256 - 40 - grpc_options.RESERVED_DESCRIPTORS
    assert grpc_options.connection_limit(100) == 100


def test_the_metrics_server_does_not_spin_without_file_descriptors() -> None:
    from prometheus_client import CollectorRegistry

    from service.telemetry.metrics_server import MetricsServer

    server = MetricsServer(0, "127.0.0.1", CollectorRegistry())
    accepts = 0

    def accept() -> None:
        nonlocal accepts
        accepts += 1
        raise OSError(24, "Too many open files")

    server._server.socket = type("Full", (), {"accept": staticmethod(accept), "fileno": server._server.socket.fileno})()
    pending = __import__("socket").create_connection(("127.0.0.1", server.port))
    time.sleep(0.5)
    pending.close()
    server._server.shutdown()
    assert 1 <= accepts <= 5
