"""Whatever a caller sends, the answer names the field, and the server goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from cape.v1 import image_pb2, pose_service_pb2, support_pb2, support_service_pb2
from tests.service.live_server import LiveServer, details
from tests.service.messages import cat_support, encoded, header_png, photograph, query, raw

NAN = float("nan")
Box = image_pb2.BoundingBox


def refused_field(call: Callable[[], object]) -> str:
    """The field that an INVALID_ARGUMENT names."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    found = details(caught.value)
    assert found["ErrorInfo"].domain == "capeserve"
    (violation,) = found["BadRequest"].field_violations
    assert violation.description
    assert violation.field in caught.value.details()
    return violation.field


@pytest.fixture(autouse=True)
def server_goes_on(live: LiveServer) -> Iterator[None]:
    """After every test: nothing is registered, nothing runs, and a good query is answered."""
    yield
    assert not live.supports.ListSupports(support_service_pb2.ListSupportsRequest()).supports
    assert len(live.poses.EstimatePose(query()).instances) == 1
    assert live.server.application.runner.queued == 0


BAD_IMAGES = {
    "truncated JPEG": (encoded(photograph(), "JPEG")[:900], "encoded"),
    "decompression bomb": (header_png(60_000, 60_000), "encoded"),
    "text file": (b"I am not a photograph.\n" * 40, "encoded"),
    "zero bytes": (b"", "encoded"),
    "30 MB message": (b"\xff\xd8\xff" + bytes(30 * 1024 * 1024), "encoded"),
    "no image": (image_pb2.Image(), ""),
    "raw pixels that do not fit": (image_pb2.Image(raw=image_pb2.RawImage(height=2, width=2, rgb=b"0")), "raw.rgb"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_query_image_is_named(live: LiveServer, name: str) -> None:
    image, field = BAD_IMAGES[name]
    message = image if isinstance(image, image_pb2.Image) else image_pb2.Image(encoded=image)
    expected = f"image.{field}".rstrip(".")
    assert refused_field(lambda: live.poses.EstimatePose(query(message))) == expected


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_support_image_is_named(live: LiveServer, name: str) -> None:
    image, field = BAD_IMAGES[name]
    support = cat_support()
    support.examples[0].image.CopyFrom(image if isinstance(image, image_pb2.Image) else image_pb2.Image(encoded=image))
    expected = f"examples[0].image.{field}".rstrip(".")
    create = support_service_pb2.CreateSupportRequest(support=support)
    assert refused_field(lambda: live.supports.CreateSupport(create)) == f"support.{expected}"
    inline = query(inline_support=support)
    if len(support.examples[0].image.encoded) < 2**20:
        assert refused_field(lambda: live.poses.EstimatePose(inline)) == f"inline_support.{expected}"


def spoil(change: Callable[[support_pb2.Support], object]) -> support_pb2.Support:
    """A good support after a change."""
    support = cat_support()
    change(support)
    return support


def of_keypoints(count: int) -> support_pb2.Support:
    """A support of texts only."""
    return support_pb2.Support(
        keypoints=[support_pb2.KeypointDefinition(name=f"keypoint {index}") for index in range(count)]
    )


def set_point(support: support_pb2.Support, index: int, **fields: Any) -> None:
    for field, value in fields.items():
        setattr(support.examples[0].keypoints[index], field, value)


BAD_SUPPORTS = {
    "keypoint right of its image": (lambda s: set_point(s, 1, x=120.5), "examples[0].keypoints[1].x"),
    "keypoint above its image": (lambda s: set_point(s, 2, y=-1), "examples[0].keypoints[2].y"),
    "NaN keypoint": (lambda s: set_point(s, 0, y=NAN), "examples[0].keypoints[0].y"),
    "infinite keypoint": (lambda s: set_point(s, 0, x=float("inf")), "examples[0].keypoints[0].x"),
    "every keypoint hidden": (
        lambda s: [set_point(s, index, hidden=True) for index in range(3)],
        "examples[0].keypoints",
    ),
    "a keypoint too few in the example": (lambda s: s.examples[0].keypoints.pop(), "examples[0].keypoints"),
    "a keypoint too many in the example": (lambda s: s.examples[0].keypoints.add(), "examples[0].keypoints"),
    "edge to nowhere": (lambda s: s.skeleton.add(start=0, end=3), "skeleton[2].end"),
    "edge from nowhere": (lambda s: s.skeleton.add(start=-1, end=2), "skeleton[2].start"),
    "edge to itself": (lambda s: s.skeleton.add(start=1, end=1), "skeleton[2]"),
    "empty name": (lambda s: setattr(s.keypoints[1], "name", ""), "keypoints[1].name"),
    "blank name": (lambda s: setattr(s.keypoints[1], "name", " \t"), "keypoints[1].name"),
    "a name twice": (lambda s: setattr(s.keypoints[2], "name", "left ear"), "keypoints[2].name"),
    "a name too long": (lambda s: setattr(s.keypoints[0], "name", "x" * 201), "keypoints[0].name"),
    "a description too long": (
        lambda s: setattr(s.keypoints[0], "description", "x" * 1001),
        "keypoints[0].description",
    ),
    "a category too long": (lambda s: setattr(s, "category", "x" * 201), "category"),
    "101 keypoints": (lambda s: s.CopyFrom(of_keypoints(101)), "keypoints"),
    "no keypoints": (lambda s: s.CopyFrom(support_pb2.Support(category="cat")), "keypoints"),
    "box outside its image": (
        lambda s: s.examples[0].box.CopyFrom(Box(x=200, y=0, width=5, height=5)),
        "examples[0].box",
    ),
    "box without width": (
        lambda s: s.examples[0].box.CopyFrom(Box(x=0, y=0, width=0, height=5)),
        "examples[0].box.width",
    ),
    "too many examples": (
        lambda s: s.examples.extend([s.examples[0]] * 100),
        "examples",
    ),
    "unknown modality": (lambda s: s.modalities.append(9), "modalities[0]"),
    "image modality without examples": (
        lambda s: (s.ClearField("examples"), s.modalities.append(1)),
        "modalities[0]",
    ),
}


@pytest.mark.parametrize("name", BAD_SUPPORTS)
def test_what_is_wrong_with_a_support_is_named(live: LiveServer, name: str) -> None:
    change, field = BAD_SUPPORTS[name]
    support = spoil(change)
    create = support_service_pb2.CreateSupportRequest(support=support)
    assert refused_field(lambda: live.supports.CreateSupport(create)) == f"support.{field}"
    inline = query(inline_support=support)
    assert refused_field(lambda: live.poses.EstimatePose(inline)) == f"inline_support.{field}"


BAD_BOXES = {
    "outside the image": (Box(x=130, y=10, width=20, height=20), ""),
    "touching the image from outside": (Box(x=-20, y=0, width=20, height=20), ""),
    "negative height": (Box(x=0, y=0, width=5, height=-5), ".height"),
    "NaN": (Box(x=NAN, y=0, width=5, height=5), ".x"),
    "as large as a planet": (Box(x=0, y=0, width=1e30, height=5), ".width"),
}


@pytest.mark.parametrize("name", BAD_BOXES)
def test_a_bad_box_is_named(live: LiveServer, name: str) -> None:
    box, field = BAD_BOXES[name]
    boxes = [Box(x=0, y=0, width=50, height=50), box]
    assert refused_field(lambda: live.poses.EstimatePose(query(boxes=boxes))) == f"boxes[1]{field}"


def test_too_many_boxes_are_refused(live: LiveServer) -> None:
    boxes = [Box(x=0, y=0, width=5, height=5)] * 65
    assert refused_field(lambda: live.poses.EstimatePose(query(boxes=boxes))) == "boxes"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"support": "cat"}, "support"),
        ({"support": ""}, "support"),
        ({"support": "supports/"}, "support"),
        ({"model": "flf"}, "model"),
        ({"options": pose_service_pb2.EstimatePoseOptions(coordinate_space=7)}, "options.coordinate_space"),
    ],
)
def test_other_bad_fields_are_named(live: LiveServer, fields: dict[str, Any], field: str) -> None:
    assert refused_field(lambda: live.poses.EstimatePose(query(**fields))) == field


def test_a_query_without_a_support_is_refused(live: LiveServer) -> None:
    request = query()
    request.ClearField("inline_support")
    assert refused_field(lambda: live.poses.EstimatePose(request)) == "support"


@pytest.mark.parametrize("count", [0, 257])
def test_a_batch_has_1_to_256_requests(live: LiveServer, count: int) -> None:
    batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[pose_service_pb2.EstimatePoseRequest()] * count)
    assert refused_field(lambda: live.poses.BatchEstimatePose(batch)) == "requests"


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"page_size": -1}, "page_size"), ({"page_token": "made up"}, "page_token"), ({"view": 9}, "view")],
)
def test_bad_list_requests_are_refused(live: LiveServer, fields: dict[str, Any], field: str) -> None:
    request = support_service_pb2.ListSupportsRequest(**fields)
    assert refused_field(lambda: live.supports.ListSupports(request)) == field


@pytest.mark.parametrize("method", ["GetSupport", "DeleteSupport", "EstimatePose"])
def test_an_unknown_support_is_not_found(live: LiveServer, method: str) -> None:
    name = "supports/0123456789abcdef0123456789abcdef"
    calls = {
        "GetSupport": lambda: live.supports.GetSupport(support_service_pb2.GetSupportRequest(name=name)),
        "DeleteSupport": lambda: live.supports.DeleteSupport(support_service_pb2.DeleteSupportRequest(name=name)),
        "EstimatePose": lambda: live.poses.EstimatePose(query(support=name)),
    }
    with pytest.raises(grpc.RpcError) as caught:
        calls[method]()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    resource = details(caught.value)["ResourceInfo"]
    assert (resource.resource_type, resource.resource_name) == ("cape.v1.Support", name)


def test_an_unknown_model_is_not_found(live: LiveServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        live.poses.EstimatePose(query(model="models/gpt"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert details(caught.value)["ResourceInfo"].resource_type == "cape.v1.Model"


def test_a_support_without_what_the_model_needs_fails_the_precondition(live: LiveServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        live.poses.EstimatePose(query(inline_support=of_keypoints(3)))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    (violation,) = details(caught.value)["PreconditionFailure"].violations
    assert violation.type == "MISSING_MODALITY"
    assert "image" in violation.description


def test_bytes_that_are_no_message_are_the_callers_fault(live: LiveServer) -> None:
    call = live.channel.unary_unary("/cape.v1.PoseService/EstimatePose")
    assert refused_field(lambda: call(b"\xff\xff\xff")) == "request"


def test_bytes_that_are_no_message_end_a_stream(live: LiveServer) -> None:
    call = live.channel.stream_stream("/cape.v1.PoseService/StreamEstimatePose")
    assert refused_field(lambda: list(call(iter([b"\xff\xff\xff"])))) == "request"


def test_a_message_over_the_limit_is_refused_unread(live: LiveServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        live.poses.EstimatePose(query(bytes(33 * 1024 * 1024)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_long_unicode_name_comes_back_in_an_error_that_fits_in_headers(live: LiveServer) -> None:
    assert refused_field(lambda: live.poses.EstimatePose(query(support="🐈" * 100_000))) == "support"


def test_the_largest_photograph_and_the_smallest_box_are_no_mistakes(live: LiveServer) -> None:
    wide = np.zeros((2, 40_000, 3), np.uint8)
    boxes = [Box(x=39_000, y=0, width=900, height=2), Box(x=0, y=0, width=1e-3, height=1e-3)]
    assert len(live.poses.EstimatePose(query(raw(wide), boxes=boxes)).instances) == 2
