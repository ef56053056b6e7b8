"""Messages and coordinates made up by hypothesis: a right answer or a named field, never anything else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cape.geometry import Crop
from cape.v1 import image_pb2, pose_service_pb2, support_pb2
from service.errors import InvalidFieldError
from service.images.reading import ImageLimits
from service.supports.names import content_name
from service.supports.validation import check_box, check_support
from tests.service.live_server import LiveServer, details, settings_for
from tests.service.messages import cat_support, encoded, photograph, query
from tests.service.numpy_engine import tiny_manifest

LIMITS = ImageLimits(2**20, 10**6)
PNG = encoded(photograph())

numbers = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1e-45, 60.0, 119.99, 120.0, 3.4e38, math.nan, math.inf])
texts = st.text(max_size=20)
boxes = st.builds(image_pb2.BoundingBox, x=numbers, y=numbers, width=numbers, height=numbers)
images = st.one_of(
    st.just(image_pb2.Image(encoded=PNG)),
    st.binary(max_size=60).map(lambda data: image_pb2.Image(encoded=data)),
    st.builds(
        lambda height, width, rgb: image_pb2.Image(raw=image_pb2.RawImage(height=height, width=width, rgb=rgb)),
        st.integers(-2, 5),
        st.integers(-2, 2**31 - 1),
        st.binary(max_size=60),
    ),
    st.just(image_pb2.Image()),
)
points = st.builds(support_pb2.ExampleKeypoint, x=numbers, y=numbers, hidden=st.booleans())
supports = st.builds(
    support_pb2.Support,
    name=texts,
    category=texts,
    keypoints=st.lists(st.builds(support_pb2.KeypointDefinition, name=texts, description=texts), max_size=4),
    skeleton=st.lists(
        st.builds(support_pb2.SkeletonEdge, start=st.integers(-1, 5), end=st.integers(-(2**31), 2**31 - 1)), max_size=3
    ),
    examples=st.lists(
        st.builds(
            support_pb2.SupportExample,
            image=images,
            box=st.none() | boxes,
            keypoints=st.lists(points, max_size=4),
        ),
        max_size=2,
    ),
    modalities=st.lists(st.integers(-1, 4), max_size=2),
)
requests = st.builds(
    pose_service_pb2.EstimatePoseRequest,
    image=images,
    boxes=st.lists(boxes, max_size=3),
    inline_support=supports | st.just(cat_support()),
    model=st.sampled_from(["", "models/flf", "models/", "flf", "models/\0"]),
    options=st.builds(
        pose_service_pb2.EstimatePoseOptions,
        coordinate_space=st.integers(-1, 4),
        include_similarity_maps=st.booleans(),
        include_proposals=st.booleans(),
    ),
)

CODES = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}

calm = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
"""Reproducible, and without limits of time: machines are busy."""


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[LiveServer]:
    with LiveServer(settings_for(tiny_repository)) as live:
        yield live


def check_answer(server: LiveServer, request: pose_service_pb2.EstimatePoseRequest) -> None:
    """A query is answered with numbers for every box and keypoint, or refused by name."""
    try:
        answer = server.poses.EstimatePose(request)
    except grpc.RpcError as error:
        assert error.code() in CODES, error.details()
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            assert details(error)["BadRequest"].field_violations[0].field
        return
    assert len(answer.instances) == max(1, len(request.boxes))
    for instance in answer.instances:
        assert [keypoint.name for keypoint in instance.keypoints] == [
            keypoint.name for keypoint in request.inline_support.keypoints
        ]
        for keypoint in instance.keypoints:
            assert all(math.isfinite(value) for value in (keypoint.x, keypoint.y, keypoint.score))


@calm
@given(request=requests)
def test_any_query_is_answered_or_refused_by_name(
    server: LiveServer, request: pose_service_pb2.EstimatePoseRequest
) -> None:
    check_answer(server, request)


@calm
@given(box=boxes)
def test_any_box_of_a_good_query_is_answered_or_refused_by_name(server: LiveServer, box: image_pb2.BoundingBox) -> None:
    check_answer(server, query(boxes=[box]))


@calm
@given(places=st.lists(st.tuples(numbers, numbers), min_size=3, max_size=3))
def test_any_keypoints_of_a_good_support_are_taken_or_refused_by_name(
    server: LiveServer, places: list[tuple[float, float]]
) -> None:
    support = cat_support()
    for keypoint, (x, y) in zip(support.examples[0].keypoints, places, strict=True):
        keypoint.x, keypoint.y = x, y
    check_answer(server, query(inline_support=support))


@calm
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(server: LiveServer, data: bytes) -> None:
    call = server.channel.unary_unary("/cape.v1.PoseService/EstimatePose")
    with pytest.raises(grpc.RpcError) as caught:
        call(data)
    assert caught.value.code() in CODES


@calm
@given(support=supports)
def test_a_support_that_passes_its_checks_has_a_name_that_its_bytes_do_not_change(support: support_pb2.Support) -> None:
    try:
        check_support(support, tiny_manifest(), LIMITS)
    except InvalidFieldError as error:
        assert error.violations[0][0]
        return
    copy = support_pb2.Support.FromString(support.SerializeToString())
    copy.name = "supports/another"
    copy.skeleton.reverse()
    assert content_name(copy) == content_name(support)


@calm
@given(box=boxes, x=st.floats(0, 1), y=st.floats(0, 1))
def test_a_place_in_the_crop_of_any_good_box_comes_back_from_the_image(
    box: image_pb2.BoundingBox, x: float, y: float
) -> None:
    try:
        check_box(box)
    except InvalidFieldError:
        return
    crop = Crop.around(box.x, box.y, box.width, box.height, size=256, padding=1.25)
    there = crop.to_image([[x, y]])
    back = crop.to_crop(there)
    # Half a pixel of the crop; beyond 16 million pixels doubles still hold hundredths.
    tolerance = max(0.5 / 256, 1e-6)
    if min(box.width, box.height) >= 1e-3:
        assert abs(back[0][0] - x) <= tolerance
        assert abs(back[0][1] - y) <= tolerance
