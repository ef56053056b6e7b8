"""The client against a server of the tiny model: what goes out and what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from cape.annotations import read_support
from cape.client import (
    AsyncClient,
    Box,
    CapeError,
    Client,
    ConnectionOptions,
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    PoseEstimate,
    Query,
    ResourceExhaustedError,
)
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
    assert performance.paper is None  # the tiny model has not the published size
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


def test_a_message_over_the_limit_is_refused(target, face):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    options = ConnectionOptions(max_message_bytes=100_000)
    with Client(target, options) as client, pytest.raises(ResourceExhaustedError, match="larger than max"):
        client.estimate(noise, face)


def test_importing_the_client_imports_nothing_heavy():
    import subprocess
    import sys

    heavy = ("torch", "cv2", "PIL", "onnxruntime", "pydantic")
    code = f"import cape.client, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
