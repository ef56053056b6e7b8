"""A real server whose engine, callers and clock misbehave: a named error, an alarm, and never a wrong answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from cape.manifest import read_manifest
from cape.v1 import model_service_pb2, pose_service_pb2, support_pb2, support_service_pb2
from service.engines.onnx_runtime import OnnxRuntimeEngine
from tests.service.live_server import LiveServer, details, settings_for
from tests.service.messages import cat_support, encoded, photograph, points, query

SECONDS = 30.0
"""Far more than anything here takes, on a machine that does other things too."""

Item = pose_service_pb2.StreamEstimatePoseRequest
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


class Session:
    """A session of ONNX Runtime that does to its outputs what a test says, or waits until a test says so.

    Attributes:
        fault: applied to the outputs of every run.
        rows: of all runs so far.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.fault: Callable[[list[np.ndarray]], list[np.ndarray]] = lambda outputs: outputs
        self.rows = 0
        self.gate = threading.Event()
        self.gate.set()

    def run(self, names: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.rows += len(next(iter(inputs.values())))
        assert self.gate.wait(timeout=300)
        return self.fault(self._session.run(names, inputs))


class Faulty(LiveServer):
    """A server whose engine is the service's own, on sessions that can be made to fail."""

    def __init__(self, repository: Path, **settings: object) -> None:
        engine = OnnxRuntimeEngine(repository, read_manifest(repository), threads=1)
        self.sessions = {name: Session(session) for name, session in engine._sessions.items()}
        engine._sessions = dict(self.sessions)
        super().__init__(settings_for(repository, **settings), engine)


@pytest.fixture
def faulty(tiny_repository: Path) -> Iterator[Faulty]:
    with Faulty(tiny_repository) as server:
        yield server


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it does not become true"
        time.sleep(0.005)


def throws(outputs: list[np.ndarray]) -> list[np.ndarray]:
    raise RuntimeError("CUDA error at /opt/secret/path: out of memory")


def answers_nan(outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [np.where(np.arange(output.size).reshape(output.shape) == 0, np.nan, output) for output in outputs]


def answers_infinity(outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [np.full_like(output, np.inf) for output in outputs]


def answers_too_few_rows(outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [output[:0] for output in outputs]


def answers_another_shape(outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [output[..., :-1] for output in outputs]


def answers_another_type(outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [output.astype(np.float64) for output in outputs]


FAULTS = [throws, answers_nan, answers_infinity, answers_too_few_rows, answers_another_shape, answers_another_type]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_that_fails_is_a_named_error_an_alarm_and_never_an_answer(
    faulty: Faulty, fault: Callable[[list[np.ndarray]], list[np.ndarray]]
) -> None:
    expected = points(faulty.poses.EstimatePose(query()).instances[0])
    for number, (component, session) in enumerate(faulty.sessions.items()):
        session.fault = fault
        # Another support each time: nothing of it may come from a cache.
        support = cat_support(seed=100 + number)
        support.keypoints[0].name = f"never seen {number}"
        with pytest.raises(grpc.RpcError) as caught:
            faulty.poses.EstimatePose(query(inline_support=support), timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        error = details(caught.value)["ErrorInfo"]
        assert (error.reason, error.metadata["component"]) == ("ENGINE_FAILED", component)
        assert "secret" not in caught.value.details()
        assert faulty.metric("capeserve_engine_errors_total", component=component) >= 1
        session.fault = lambda outputs: outputs
        assert faulty.poses.EstimatePose(query(inline_support=support)).instances, "a failure is not kept"
    again = faulty.poses.EstimatePose(query()).instances[0]
    np.testing.assert_allclose(points(again), expected, atol=1e-3)


def test_an_engine_that_hangs_fails_its_callers_turns_health_red_and_may_come_back(tiny_repository: Path) -> None:
    def answered() -> bool:
        # On a busy machine a run may take longer than `hang_seconds` without any fault.
        try:
            return bool(server.poses.EstimatePose(query(), timeout=SECONDS).instances)
        except grpc.RpcError:
            return False

    with Faulty(tiny_repository, hang_seconds=0.5) as server:
        wait_until(answered)
        session = server.sessions["pose_decoder"]
        session.gate.clear()
        try:
            for _ in range(2):
                with pytest.raises(grpc.RpcError) as caught:
                    server.poses.EstimatePose(query(), timeout=SECONDS)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert details(caught.value)["ErrorInfo"].reason == "ENGINE_FAILED"
            check = health_pb2.HealthCheckRequest()
            wait_until(lambda: server.health.Check(check).status == NOT_SERVING)
            assert server.metric("capeserve_engine_healthy") == 0
        finally:
            session.gate.set()
        wait_until(lambda: server.health.Check(check).status == SERVING)
        wait_until(answered)
        assert server.metric("capeserve_engine_healthy") == 1


def test_work_of_callers_who_left_or_are_out_of_time_is_not_begun_and_counted(faulty: Faulty) -> None:
    faulty.poses.EstimatePose(query())
    backbone = faulty.sessions["image_backbone"]
    dropped = {"component": "image_backbone"}
    before = backbone.rows
    backbone.gate.clear()
    try:
        running = faulty.poses.EstimatePose.future(query(), timeout=300)
        wait_until(lambda: backbone.rows == before + 1)
        leaving = [faulty.poses.EstimatePose.future(query(), timeout=300) for _ in range(5)]
        late = [faulty.poses.EstimatePose.future(query(), timeout=10) for _ in range(5)]
        wait_until(lambda: faulty.metric("capeserve_queue_depth", **dropped) == 10)
        for call in leaving:
            call.cancel()
        for call in late:
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        faulty.wait_for("capeserve_queue_depth", 0, **dropped)
    finally:
        backbone.gate.set()
    assert running.result().instances
    assert backbone.rows == before + 1, "no row of theirs has run"
    reasons = ("cancelled", "deadline")
    gone = [faulty.metric("capeserve_queue_dropped_total", reason=reason, **dropped) for reason in reasons]
    assert sum(gone) == 10
    assert gone[0] >= 5

    def ended(code: str) -> float:
        return faulty.metric("capeserve_requests_total", method="EstimatePose", code=code)

    # A client whose deadline has passed cancels its call, which may reach the server before the server looks at its
    # own clock.
    wait_until(lambda: ended("CANCELLED") + ended("DEADLINE_EXCEEDED") == 10)
    assert ended("CANCELLED") >= 5


def test_a_full_queue_refuses_at_once_while_the_engine_is_still_busy(tiny_repository: Path) -> None:
    with Faulty(tiny_repository, max_queue=8) as server:
        server.poses.EstimatePose(query())
        backbone = server.sessions["image_backbone"]
        rows = backbone.rows
        backbone.gate.clear()
        try:
            calls = [server.poses.EstimatePose.future(query(), timeout=300)]
            wait_until(lambda: backbone.rows == rows + 1)
            calls += [server.poses.EstimatePose.future(query(), timeout=300) for _ in range(8)]
            wait_until(lambda: server.metric("capeserve_queue_depth", component="image_backbone") == 8)
            for _ in range(20):
                with pytest.raises(grpc.RpcError) as caught:
                    server.poses.EstimatePose(query(), timeout=SECONDS)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert details(caught.value)["ErrorInfo"].reason == "SERVER_FULL"
                assert details(caught.value)["RetryInfo"].retry_delay.ToNanoseconds() > 0
            assert not any(call.done() for call in calls), "the refusals did not wait for the engine"
            assert server.metric("capeserve_queue_dropped_total", component="image_backbone", reason="full") == 20
        finally:
            backbone.gate.set()
        assert all(call.result().instances for call in calls), "what was accepted is answered"


def wide_support() -> support_pb2.Support:
    """A hundred keypoints: with similarity maps an answer has over 100 KB."""
    support = support_pb2.Support(category="grid")
    example = support.examples.add()
    example.image.encoded = encoded(photograph())
    for index in range(100):
        support.keypoints.add(name=f"point {index}")
        example.keypoints.add(x=10 + index % 10 * 10, y=5 + index // 10 * 8)
    return support


def test_a_caller_who_does_not_read_its_stream_is_not_worked_for(faulty: Faulty) -> None:
    name = faulty.supports.CreateSupport(support_service_pb2.CreateSupportRequest(support=wide_support())).support.name
    options = pose_service_pb2.EstimatePoseOptions(include_similarity_maps=True)
    one = query(support=name, options=options)
    size = faulty.poses.EstimatePose(one).ByteSize()
    assert size > 100_000
    total = 600
    stream = faulty.poses.StreamEstimatePose(Item(request_id=str(number), request=one) for number in range(total))
    answered = lambda: faulty.metric("capeserve_instances_total", model="flf")  # noqa: E731
    first = next(stream)
    still, seen = 0, answered()
    end = time.monotonic() + 120
    while still < 10:
        assert time.monotonic() < end
        time.sleep(0.1)
        still, seen = (still + 1, seen) if answered() == seen else (0, answered())
    assert seen < total / 2, "the server stopped working long before the end"
    ids = [first.request_id, *(answer.request_id for answer in stream)]
    assert sorted(map(int, ids)) == list(range(total)), "and went on once it was read again"


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_changes_no_answer_and_no_deadline(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    # gRPC's Python client reckons with the calendar: the deadlines here are the server's own.
    with Faulty(tiny_repository, default_deadline_seconds=10) as server:
        expected = points(server.poses.EstimatePose(query()).instances[0])
        create = lambda seed: server.supports.CreateSupport(  # noqa: E731
            support_service_pb2.CreateSupportRequest(support=cat_support(seed=seed))
        )
        names = [create(1).support.name]
        real, real_ns = time.time, time.time_ns
        with ThreadPoolExecutor(4) as callers:
            running = [callers.submit(server.poses.EstimatePose, query()) for _ in range(20)]
            monkeypatch.setattr(time, "time", lambda: real() + jump)
            monkeypatch.setattr(time, "time_ns", lambda: real_ns() + jump * 10**9)
            running += [callers.submit(server.poses.EstimatePose, query()) for _ in range(20)]
            for call in running:
                np.testing.assert_allclose(points(call.result().instances[0]), expected, atol=1e-3)
        names.append(create(2).support.name)
        page = server.supports.ListSupports(support_service_pb2.ListSupportsRequest())
        assert [support.name for support in page.supports] == names, "in the order in which they were created"
        server.sessions["image_backbone"].gate.clear()
        with pytest.raises(grpc.RpcError) as caught:
            server.poses.EstimatePose(query())
        server.sessions["image_backbone"].gate.set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        report = server.models.GetPerformanceReport(model_service_pb2.GetPerformanceReportRequest())
        assert report.models[0].count == 41
