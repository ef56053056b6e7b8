from __future__ import annotations

import asyncio
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

from cape.annotations import read_support
from cape.client import (
    AsyncClient,
    Box,
    CapeError,
    Client,
    ConnectionOptions,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PoseEstimate,
    Query,
    ResourceExhaustedError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
)
from cape.v1 import model_service_pb2, model_service_pb2_grpc
from tests.service.live_server import LiveServer, settings_for

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HOPPER = EXAMPLES / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def target(tiny_repository: Path) -> Iterator[str]:
    with LiveServer(settings_for(tiny_repository)) as live:
        yield live.server.target


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    with Client(target) as client:
        client.wait_ready()
        yield client


@pytest.fixture(scope="module")
def face():
    return read_support(EXAMPLES / "astronaut.yaml")


def test_an_estimate_holds_one_instance_per_box_with_every_keypoint(client, face):
    boxes = [Box(124, 16, 206, 274), Box(0, 0, 400, 500)]
    pose = client.estimate(HOPPER, face, boxes=boxes)
    assert [instance.box for instance in pose.instances] == boxes
    for instance in pose.instances:
        assert instance.names == face.names
        assert instance.keypoints.shape == (14, 2)
        assert instance.keypoints.dtype == np.float32
        assert instance.located.all()
        assert ((instance.scores >= 0) & (instance.scores <= 1)).all()
        assert instance.similarity_maps is None
        assert instance.proposals is None
    assert pose.provenance.model == "models/flf"
    assert 0 < pose.timing.backbone <= pose.timing.total


def test_paths_bytes_and_pixels_of_the_same_image_give_the_same_answer(client, face, tmp_path):
    pixels = np.asarray(Image.open(HOPPER))
    path = tmp_path / "same.png"
    Image.fromarray(pixels).save(path)
    found = [client.estimate(image, face).instances[0] for image in (path, str(path), path.read_bytes(), pixels)]
    for other in found[1:]:
        np.testing.assert_array_equal(other.keypoints, found[0].keypoints)


def test_maps_and_proposals_come_where_they_are_asked_for(client, face):
    (instance,) = client.estimate(HOPPER, face, similarity_maps=True, proposals=True).instances
    assert instance.similarity_maps is not None
    assert instance.similarity_maps.shape == (14, 16, 16)
    assert np.isfinite(instance.similarity_maps).all()
    assert instance.proposals is not None
    assert instance.proposals.shape == (14, 2)


def test_normalized_coordinates_are_fractions_of_the_photograph(client, face):
    width, height = Image.open(HOPPER).size
    pixels, fractions = (
        client.estimate(HOPPER, face, normalized=normalized).instances[0].keypoints for normalized in (False, True)
    )
    np.testing.assert_allclose(fractions * (width, height), pixels, atol=0.01)


def test_a_registered_support_comes_back_as_it_was(client, face):
    registered = client.create_support(face)
    assert client.create_support(face).already_existed
    assert registered.name in [listed.name for listed in client.list_supports(page_size=1)]

    definition = client.get_support(registered.name).definition
    assert definition.keypoints == face.keypoints
    assert definition.skeleton == face.skeleton
    (example,), (sent,) = definition.examples, face.examples
    assert example.image == Path(sent.image).read_bytes()
    assert example.box == sent.box
    np.testing.assert_array_equal(example.keypoints, sent.keypoints)
    assert client.get_support(registered.name, images=False).definition.examples[0].image is None

    client.delete_support(registered.name)
    with pytest.raises(NotFoundError) as caught:
        client.get_support(registered.name)
    assert caught.value.resource_name == registered.name


def test_a_support_from_a_server_can_be_sent_on(client, face):
    registered = client.create_support(face)
    again = client.create_support(client.get_support(registered.name).definition)
    assert again.name == registered.name
    without_pixels = client.get_support(registered.name, images=False).definition
    with pytest.raises(ValueError, match=r"examples\[0\]\.image: missing"):
        client.create_support(without_pixels)


def test_all_pages_of_supports_are_listed(client, face):
    from dataclasses import replace

    names = {client.create_support(replace(face, category=f"face {number}")).name for number in range(5)}
    assert names <= {listed.name for listed in client.list_supports(page_size=2)}


def test_a_batch_answers_each_query_or_says_why_not(client, face):
    good, bad = client.estimate_batch([Query(HOPPER, face), Query(b"no image", face)])
    assert isinstance(good, PoseEstimate)
    assert isinstance(bad, InvalidRequestError)
    assert bad.violations[0].field.endswith("image.encoded")


def test_a_stream_answers_every_query_under_its_position(client, face):
    queries = [Query(b"no image" if number == 2 else HOPPER, face) for number in range(6)]
    answers = dict(client.estimate_stream(queries))
    assert sorted(answers) == list(range(6))
    assert [number for number, answer in answers.items() if isinstance(answer, CapeError)] == [2]


def test_a_stream_raises_what_its_queries_raise_after_the_answers_to_what_was_sent(client, face):
    def queries() -> Iterator[Query]:
        yield Query(HOPPER, face)
        raise KeyError("the camera is gone")

    stream = client.estimate_stream(queries())
    assert next(stream)[0] == 0
    with pytest.raises(KeyError, match="the camera is gone"):
        next(stream)


def test_a_stream_that_is_left_early_stops_reading_queries(client, face):
    read = 0

    def queries() -> Iterator[Query]:
        nonlocal read
        while True:
            read += 1
            yield Query(HOPPER, face)

    stream = client.estimate_stream(queries())
    next(stream)
    stream.close()
    time.sleep(0.3)
    seen = read
    time.sleep(0.3)
    assert read == seen


def test_models_and_their_performance_are_reported(client, face):
    (model,) = client.models()
    assert (model.name, model.system, model.is_default) == ("models/flf", "flf", True)
    assert model.required_modalities == ("image", "text")
    client.estimate(HOPPER, face)
    (performance,) = client.performance()
    assert performance.paper is not None
    assert performance.paper.time == pytest.approx(0.06135)
    assert performance.count > 0


def test_bad_requests_name_their_fields(client, face):
    with pytest.raises(InvalidRequestError, match=r"boxes\[0\]") as caught:
        client.estimate(HOPPER, face, boxes=[Box(5000, 0, 10, 10)])
    assert caught.value.violations[0].field == "boxes[0]"
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_support_without_what_the_model_needs_is_a_failed_precondition(client, face):
    from dataclasses import replace

    with pytest.raises(FailedPreconditionError, match="image"):
        client.estimate(HOPPER, replace(face, examples=()))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4), np.uint8), ValueError, r"uint8 \[H, W, 3\], not uint8 \[4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), ValueError, "not float32"),
        ("/no/such/file.jpg", FileNotFoundError, "file.jpg"),
        (7, TypeError, "not int"),
    ],
)
def test_images_that_cannot_be_sent_are_refused_here(client, face, image, error, message):
    with pytest.raises(error, match=message):
        client.estimate(image, face)


async def test_the_asynchronous_client_does_the_same(target, face):
    async with AsyncClient(target) as client:
        await client.wait_ready()
        registered = await client.create_support(face)
        assert registered.name in [listed.name async for listed in client.list_supports()]
        fetched = await client.get_support(registered.name, images=False)
        assert fetched.definition.names == face.names

        poses = await asyncio.gather(*(client.estimate(HOPPER, registered.name) for _ in range(4)))
        with Client(target) as synchronous:
            same = synchronous.estimate(HOPPER, registered.name)
        for pose in poses:
            np.testing.assert_allclose(pose.instances[0].keypoints, same.instances[0].keypoints, atol=0.05)

        good, bad = await client.estimate_batch([Query(HOPPER, face), Query(b"no image", face)])
        assert isinstance(good, PoseEstimate)
        assert isinstance(bad, InvalidRequestError)
        (model,) = await client.models()
        assert model.name == "models/flf"
        assert [performance.model for performance in await client.performance()] == ["models/flf"]

        await client.delete_support(registered.name)
        with pytest.raises(NotFoundError):
            await client.get_support(registered.name)


async def test_an_asynchronous_stream_answers_every_query(target, face):
    async def queries():
        for number in range(5):
            yield Query(b"no image" if number == 2 else HOPPER, face)

    async with AsyncClient(target) as client:
        answers = {number: answer async for number, answer in client.estimate_stream(queries())}
        same = {number: answer async for number, answer in client.estimate_stream([Query(HOPPER, face)])}
    assert sorted(answers) == list(range(5))
    assert isinstance(answers[2], InvalidRequestError)
    assert list(same) == [0]


async def test_an_asynchronous_stream_raises_what_its_queries_raise(target, face):
    async def queries():
        yield Query(HOPPER, face)
        raise KeyError("the camera is gone")

    async with AsyncClient(target) as client:
        stream = client.estimate_stream(queries())
        assert (await anext(stream))[0] == 0
        with pytest.raises(KeyError, match="the camera is gone"):
            await anext(stream)


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


def test_a_message_over_the_limit_is_refused(target, face):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    options = ConnectionOptions(max_message_bytes=100_000)
    with Client(target, options) as client, pytest.raises(ResourceExhaustedError, match="larger than max"):
        client.estimate(noise, face)


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


def test_importing_the_client_imports_nothing_heavy():
    import subprocess
    import sys

    heavy = ("torch", "cv2", "PIL", "onnxruntime", "pydantic")
    code = f"import cape.client, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_photograph_larger_than_grpcs_retry_buffer_is_sent_again(scripted, face):
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
