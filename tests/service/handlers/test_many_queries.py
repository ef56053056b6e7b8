"""Batches and streams: each query succeeds or fails by itself, and nothing piles up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from cape.v1 import pose_service_pb2
from service.errors import MessageSizeError
from service.handlers.pose import PoseService
from service.process.shutdown import Shutdown
from service.telemetry.metrics import Metrics
from tests.service.live_server import LiveServer, details, settings_for
from tests.service.messages import cat_support, query
from tests.service.numpy_engine import tiny_manifest

Item = pose_service_pb2.StreamEstimatePoseRequest


def field_of(result: pose_service_pb2.EstimatePoseResult) -> str:
    """The field that an item's error names."""
    assert result.error.code == code_pb2.INVALID_ARGUMENT
    for detail in result.error.details:
        violations = error_details_pb2.BadRequest()
        if detail.Unpack(violations):
            return violations.field_violations[0].field
    raise AssertionError(f"no BadRequest in {result.error}")


def test_a_batch_answers_in_order_and_lets_single_items_fail(live: LiveServer) -> None:
    other = cat_support(seed=4)
    other.keypoints[0].name = "whiskers"
    batch = pose_service_pb2.BatchEstimatePoseRequest(
        requests=[query(), query(b"no image"), query(inline_support=other), query(support="supports/none")]
    )
    counted = {"method": "BatchEstimatePose"}
    before = [live.metric("capeserve_items_total", result=result, **counted) for result in ("answered", "invalid")]
    first, second, third, fourth = live.poses.BatchEstimatePose(batch).results
    after = [live.metric("capeserve_items_total", result=result, **counted) for result in ("answered", "invalid")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2], "the call itself ends with OK"
    assert first.response.instances[0].keypoints[0].name == "left ear"
    assert field_of(second) == "image.encoded"
    assert third.response.instances[0].keypoints[0].name == "whiskers"
    assert fourth.error.code == code_pb2.NOT_FOUND


def test_a_batch_computes_a_shared_support_once(live: LiveServer) -> None:
    support = cat_support(seed=21)
    batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[query(inline_support=support)] * 12)
    before = live.metric("capeserve_cache_misses_total", cache="supports")
    results = live.poses.BatchEstimatePose(batch).results
    assert all(result.HasField("response") for result in results)
    assert live.metric("capeserve_cache_misses_total", cache="supports") == before + 1


def test_a_stream_answers_every_request_under_its_id(live: LiveServer) -> None:
    requests = [Item(request_id=str(number), request=query()) for number in range(40)]
    requests[7].request.image.encoded = b"no image"
    requests[8].ClearField("request")
    results = {answer.request_id: answer.result for answer in live.poses.StreamEstimatePose(iter(requests))}
    assert results.keys() == {str(number) for number in range(40)}
    assert field_of(results.pop("7")) == "image.encoded"
    assert field_of(results.pop("8")) == "image"
    assert all(result.HasField("response") for result in results.values())


def test_an_empty_stream_ends(live: LiveServer) -> None:
    assert list(live.poses.StreamEstimatePose(iter([]))) == []


def test_a_stream_is_answered_while_it_is_still_open(live: LiveServer) -> None:
    answered = threading.Event()

    def requests() -> Iterator[Item]:
        yield Item(request_id="first", request=query())
        assert answered.wait(timeout=60)
        yield Item(request_id="second", request=query())

    answers = live.poses.StreamEstimatePose(requests())
    assert next(answers).request_id == "first"
    answered.set()
    assert next(answers).request_id == "second"


class AnswersAtOnce:
    """What answers queries, in no time."""

    async def answer(self, *_: object) -> pose_service_pb2.EstimatePoseResponse:
        return pose_service_pb2.EstimatePoseResponse()


class SlowCaller:
    """A call whose caller reads nothing for a while."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.answers: list[pose_service_pb2.StreamEstimatePoseResponse] = []

    def time_remaining(self) -> None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def write(self, answer: pose_service_pb2.StreamEstimatePoseResponse) -> None:
        await self.reads.wait()
        self.answers.append(answer)


async def test_a_stream_that_is_not_read_is_not_read_from_either() -> None:
    service = PoseService(
        AnswersAtOnce(),
        default_deadline=60,
        max_batch_items=1,
        batch_concurrency=1,
        stream_concurrency=3,
        metrics=Metrics(tiny_manifest(), version="1", engine="none"),
        shutdown=Shutdown(),
    )
    taken = 0

    async def requests() -> AsyncIterator[Item]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield Item(request_id=str(number))

    caller = SlowCaller()
    stream = asyncio.create_task(service.StreamEstimatePose(requests(), caller))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert taken == 4, "three without an answer, and one that waits for a slot"
    caller.reads.set()
    await stream
    assert sorted(int(answer.request_id) for answer in caller.answers) == list(range(50))


async def test_a_message_that_cannot_be_read_ends_a_stream_once_the_others_are_answered() -> None:
    service = PoseService(
        AnswersAtOnce(),
        default_deadline=60,
        max_batch_items=1,
        batch_concurrency=1,
        stream_concurrency=16,
        metrics=Metrics(tiny_manifest(), version="1", engine="none"),
        shutdown=Shutdown(),
    )

    async def requests() -> AsyncIterator[Item]:
        for number in range(8):
            yield Item(request_id=str(number))
        raise MessageSizeError("too large")

    caller = SlowCaller()
    stream = asyncio.create_task(service.StreamEstimatePose(requests(), caller))
    await asyncio.sleep(0)
    caller.reads.set()
    with pytest.raises(MessageSizeError):
        await stream
    assert len(caller.answers) == 8


def test_an_abandoned_call_leaves_nothing_running(live: LiveServer) -> None:
    batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[query()] * 256)
    call = live.poses.BatchEstimatePose.future(batch)
    live.wait_for("capeserve_requests_in_flight", 1, method="BatchEstimatePose")
    call.cancel()
    live.wait_for("capeserve_requests_in_flight", 0, method="BatchEstimatePose")
    assert live.metric("capeserve_requests_total", method="BatchEstimatePose", code="CANCELLED") == 1
    assert live.server.application.runner.queued == 0


def test_an_abandoned_stream_leaves_nothing_running_and_nothing_to_complain_about(
    live: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    def requests() -> Iterator[Item]:
        for number in range(200):
            yield Item(request_id=str(number), request=query())

    live.wait_for("capeserve_requests_in_flight", 0, method="StreamEstimatePose")
    before = live.metric("capeserve_requests_total", method="StreamEstimatePose", code="CANCELLED")
    stream = live.poses.StreamEstimatePose(requests())
    next(stream)
    stream.cancel()
    live.wait_for("capeserve_requests_in_flight", 0, method="StreamEstimatePose")
    assert live.metric("capeserve_requests_total", method="StreamEstimatePose", code="CANCELLED") == before + 1
    assert live.server.application.runner.queued == 0
    assert not caplog.text


def test_more_calls_than_allowed_are_told_when_to_come_back(tiny_repository: Path) -> None:
    with LiveServer(settings_for(tiny_repository, max_in_flight=1)) as server:
        batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[query()] * 100)
        running = server.poses.BatchEstimatePose.future(batch)
        server.wait_for("capeserve_requests_in_flight", 1, method="BatchEstimatePose")
        with pytest.raises(grpc.RpcError) as caught:
            server.poses.EstimatePose(query())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details(caught.value)["RetryInfo"].retry_delay.ToNanoseconds() > 0
        assert all(result.HasField("response") for result in running.result().results)
        assert server.poses.EstimatePose(query()).instances


def test_a_deadline_that_passes_is_answered_as_such(tiny_repository: Path) -> None:
    with (
        LiveServer(settings_for(tiny_repository, default_deadline_seconds=1e-4)) as server,
        pytest.raises(grpc.RpcError) as caught,
    ):
        server.poses.EstimatePose(query())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_callers_own_deadline_wins_over_the_default(tiny_repository: Path) -> None:
    with LiveServer(settings_for(tiny_repository, default_deadline_seconds=1e-4)) as server:
        assert server.poses.EstimatePose(query(), timeout=60).instances
