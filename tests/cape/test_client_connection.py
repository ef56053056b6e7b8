"""Connections: servers that are full, away, slow or secured, and options that make no sense."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from PIL import Image

from cape.client import (
    AsyncClient,
    Client,
    ConnectionOptions,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    ResourceExhaustedError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
)
from cape.v1 import model_service_pb2, model_service_pb2_grpc
from tests.service.live_server import LiveServer, settings_for


class Scripted(model_service_pb2_grpc.ModelServiceServicer):
    """Answers calls with the errors of a script, then well; counts them and keeps their metadata."""

    def __init__(self, *script: tuple[grpc.StatusCode, str, tuple[Message, ...]], delay: float = 0.0) -> None:
        self.script = list(script)
        self.delay = delay
        self.calls = 0
        self.metadata: dict[str, str] = {}

    def ListModels(self, request, context):  # noqa: N802 (the name is gRPC's)
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        time.sleep(self.delay)
        if self.script:
            code, message, details = self.script.pop(0)
            status = status_pb2.Status(code=code.value[0], message=message)
            for detail in details:
                status.details.add().Pack(detail)
            context.abort_with_status(rpc_status.to_status(status))
        return model_service_pb2.ListModelsResponse()


@pytest.fixture
def scripted() -> Iterator[Callable[[Scripted], str]]:
    """Starts servers of scripted answers; each call gives 'host:port'."""
    servers = []

    def start(service: Scripted) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
        port = server.add_insecure_port("localhost:0")
        server.start()
        servers.append(server)
        return f"localhost:{port}"

    yield start
    for server in servers:
        server.stop(0)


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(int(seconds * 1e9))
    return info


FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (retry_info(0.05),))
GONE = (grpc.StatusCode.UNAVAILABLE, "gone", ())
CUT = (grpc.StatusCode.CANCELLED, "CANCELLED", ())


@pytest.mark.parametrize("failure", [FULL, GONE, CUT])
def test_a_server_that_is_full_or_away_for_a_moment_is_tried_again(scripted, failure):
    service = Scripted(failure, failure)
    with Client(scripted(service)) as client:
        assert client.models() == []
    assert service.calls == 3


async def test_the_asynchronous_client_tries_again_too(scripted):
    service = Scripted(FULL, GONE, FULL)
    async with AsyncClient(scripted(service)) as client:
        assert await client.models() == []
    assert service.calls == 4


@pytest.mark.parametrize(("failure", "error"), [(FULL, OverloadedError), (GONE, UnavailableError)])
def test_trying_again_ends_after_as_many_attempts_as_were_asked_for(scripted, failure, error):
    service = Scripted(*[failure] * 10)
    with Client(scripted(service), ConnectionOptions(attempts=2)) as client, pytest.raises(error):
        client.models()
    assert service.calls == 2


def test_a_server_that_wants_longer_than_there_is_time_is_not_waited_for(scripted):
    service = Scripted((grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (retry_info(3600),)))
    options = ConnectionOptions(timeout=5)
    with Client(scripted(service), options) as client, pytest.raises(OverloadedError) as caught:
        client.models()
    assert caught.value.retry_after == 3600
    assert service.calls == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ResourceExhaustedError),
        (grpc.StatusCode.UNAUTHENTICATED, UnauthenticatedError),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
    ],
)
def test_every_status_has_its_exception_and_is_not_tried_again(scripted, code, error):
    service = Scripted((code, "what happened", ()))
    with Client(scripted(service)) as client, pytest.raises(error, match="what happened") as caught:
        client.models()
    assert type(caught.value) is error
    assert caught.value.code is code
    assert service.calls == 1


def test_a_call_is_given_up_after_its_timeout(scripted):
    options = ConnectionOptions(timeout=0.1)
    with Client(scripted(Scripted(delay=1.0)), options) as client, pytest.raises(DeadlineExceededError):
        client.models()


def test_the_token_goes_with_every_call_and_is_not_shown(scripted):
    service = Scripted()
    options = ConnectionOptions(token="secret")
    with Client(scripted(service), options) as client:
        client.models()
    assert service.metadata["authorization"] == "Bearer secret"
    assert "secret" not in repr(options)


def test_options_are_keyword_arguments_of_the_client_and_override_the_options_given(scripted):
    service = Scripted(*[GONE] * 10)
    with (
        Client(scripted(service), ConnectionOptions(token="a", attempts=4), attempts=2) as client,
        pytest.raises(UnavailableError),
    ):
        client.models()
    assert service.calls == 2
    assert service.metadata["authorization"] == "Bearer a"
    with pytest.raises(ValueError, match="attempts: 1 to 5"):
        Client("localhost:1", attempts=9)


def test_a_call_overrides_the_clients_options_for_itself_alone(scripted):
    service = Scripted(*[FULL] * 3)
    with Client(scripted(service), token="mine") as client:
        with pytest.raises(OverloadedError):
            client.models(attempts=1, token="another")
        assert service.calls == 1
        assert service.metadata["authorization"] == "Bearer another"
        assert client.models() == []
        assert service.metadata["authorization"] == "Bearer mine"
    with Client(scripted(Scripted(delay=1.0))) as client, pytest.raises(DeadlineExceededError):
        client.models(timeout=0.1)


async def test_a_call_of_the_asynchronous_client_overrides_options_too(scripted):
    service = Scripted(*[GONE] * 3)
    async with AsyncClient(scripted(service), token="mine") as client:
        with pytest.raises(UnavailableError):
            await client.models(attempts=1, token=None)
        assert service.calls == 1
        assert "authorization" not in service.metadata
        assert await client.models() == []
    async with AsyncClient(scripted(Scripted(delay=1.0))) as client:
        with pytest.raises(DeadlineExceededError):
            await client.models(timeout=0.1)


def test_options_of_the_connection_cannot_be_given_to_a_call():
    with Client("localhost:1") as client, pytest.raises(TypeError, match="timeout, token, attempts, not tls"):
        client.models(tls=True)


def test_a_client_that_is_closed_does_not_try_again(scripted):
    service = Scripted(delay=1.0)
    client = Client(scripted(service))
    with futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.models)
        while not service.calls:
            time.sleep(0.01)
        client.close()
        with pytest.raises(UnavailableError, match="ended the call"):
            call.result(10)
    assert service.calls == 1


@pytest.fixture
def mutual_tls(tmp_path: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """A server that asks for a client's certificate: 'host:port' and the PEM files of a client that it trusts."""
    authority = trustme.CA()
    certificate, own = authority.issue_cert("localhost"), authority.issue_cert("client@example.org")
    files = {name: tmp_path / f"{name}.pem" for name in ("root_certificates", "client_certificate", "client_key")}
    authority.cert_pem.write_to_path(files["root_certificates"])
    own.cert_chain_pems[0].write_to_path(files["client_certificate"])
    own.private_key_pem.write_to_path(files["client_key"])
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), require_client_auth=True)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Scripted(), server)
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    yield f"localhost:{port}", files
    server.stop(0)


def test_a_server_with_mutual_tls_answers_clients_that_it_trusts(mutual_tls):
    target, files = mutual_tls
    with Client(target, ConnectionOptions(**files)) as client:
        assert client.models() == []


async def test_the_asynchronous_client_speaks_mutual_tls_too(mutual_tls):
    target, files = mutual_tls
    async with AsyncClient(target, ConnectionOptions(**files)) as client:
        assert await client.models() == []


def test_a_server_with_mutual_tls_refuses_others(mutual_tls):
    target, files = mutual_tls
    strangers = (
        ConnectionOptions(attempts=1, timeout=5),
        ConnectionOptions(attempts=1, timeout=5, tls=True),
        ConnectionOptions(attempts=1, timeout=5, root_certificates=files["root_certificates"]),
    )
    for options in strangers:
        with Client(target, options) as client, pytest.raises(UnavailableError):
            client.models()


def test_waiting_for_a_server_that_never_comes_ends():
    with Client("localhost:1") as client, pytest.raises(UnavailableError, match=r"not ready after 0\.3 s"):
        client.wait_ready(timeout=0.3)


def test_waiting_ends_when_the_server_has_come(tiny_repository):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ready = threading.Event()

    def wait() -> None:
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_ready(timeout=60)
            ready.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    with LiveServer(settings_for(tiny_repository, port=port)):
        waiting.join()
    assert ready.is_set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts: 1 to 5"),
        ({"timeout": 0}, "timeout: more than 0"),
        ({"client_key": "key.pem"}, "client_certificate and client_key"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConnectionOptions(**options)


def test_a_photograph_larger_than_grpcs_retry_buffer_is_sent_again():
    from cape.v1 import pose_service_pb2, pose_service_pb2_grpc

    class Poses(pose_service_pb2_grpc.PoseServiceServicer):
        calls = 0

        def EstimatePose(self, request, context):  # noqa: N802 (the name is gRPC's)
            self.calls += 1
            if self.calls == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            return pose_service_pb2.EstimatePoseResponse()

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 2**20
    service = Poses()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    pose_service_pb2_grpc.add_PoseServiceServicer_to_server(service, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        with Client(f"localhost:{port}") as client:
            assert client.estimate(buffer.getvalue(), "supports/any").instances == ()
    finally:
        server.stop(0)
    assert service.calls == 2
