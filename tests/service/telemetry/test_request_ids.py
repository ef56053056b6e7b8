"""A call's id and trace id: in its answer, in the log, and nowhere they do not belong."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from cape.v1 import model_service_pb2, pose_service_pb2, support_service_pb2
from service.batching.batcher import Batcher
from service.errors import InvalidFieldError
from service.telemetry.logs import JsonFormatter, TextFormatter
from service.telemetry.metrics import STAGES
from service.telemetry.request_context import REQUEST_ID, TRACE_PARENT, current_request, request_scope
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import cat_support, query
from tests.service.numpy_engine import SIZE, NumpyEngine, tiny_manifest

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
METHOD = "/cape.v1.PoseService/EstimatePose"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the service logs, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("service")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def server(tiny_repository) -> Iterator[LiveServer]:
    with LiveServer(settings_for(tiny_repository)) as live:
        yield live


def logged(log: io.StringIO, identity: str) -> dict:
    """The line of a request, which may be written a moment after its answer has arrived."""
    end = time.monotonic() + 10
    while identity not in log.getvalue():
        assert time.monotonic() < end, "the request is not in the log"
        time.sleep(0.01)
    (line,) = [line for line in map(json.loads, log.getvalue().splitlines()) if line.get("request_id") == identity]
    return line


def test_a_callers_id_and_trace_come_back_and_stand_in_the_log(server: LiveServer, log: io.StringIO) -> None:
    metadata = ((REQUEST_ID, "order-17"), (TRACE_PARENT, PARENT))
    _, call = server.models.ListModels.with_call(model_service_pb2.ListModelsRequest(), metadata=metadata)
    assert dict(call.trailing_metadata())[REQUEST_ID] == "order-17"
    line = logged(log, "order-17")
    assert (line["method"], line["code"], line["trace_id"]) == ("ListModels", "OK", TRACE)
    assert 0 < line["seconds"] < 10


def test_a_refused_call_gets_its_id_too_and_is_logged_above_debug(server: LiveServer, log: io.StringIO) -> None:
    with pytest.raises(grpc.RpcError) as error:
        server.supports.GetSupport(support_service_pb2.GetSupportRequest(name="supports/none"))
    identity = dict(error.value.trailing_metadata())[REQUEST_ID]
    assert len(identity) == 32
    line = logged(log, identity)
    assert line["level"] == "info"
    assert line["code"] == error.value.code().name
    assert "trace_id" not in line


@pytest.mark.parametrize("forged", ["", "a b", "x" * 65, "naïve"])
def test_an_id_that_could_forge_log_lines_is_not_used_and_the_call_is_refused(forged: str) -> None:
    with request_scope(METHOD, [(REQUEST_ID, forged)], None) as request:
        assert len(request.id) == 32
        with pytest.raises(InvalidFieldError, match="x-request-id"):
            request.refuse_invalid_id()


def test_a_call_with_an_invalid_id_fails_with_the_name_of_the_field(server: LiveServer) -> None:
    with pytest.raises(grpc.RpcError) as error:
        server.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=((REQUEST_ID, "a b"),))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "x-request-id" in error.value.details()


def test_the_line_of_an_answered_query_has_model_boxes_and_stage_times(server: LiveServer, log: io.StringIO) -> None:
    name = server.supports.CreateSupport(support_service_pb2.CreateSupportRequest(support=cat_support())).support.name
    request = query(support=name)
    request.boxes.add(x=0, y=0, width=20, height=20)
    server.poses.EstimatePose(request, metadata=((REQUEST_ID, "facts-1"),))
    line = logged(log, "facts-1")
    assert line["level"] == "info"
    assert (line["queries"], line["boxes"], line["warm"]) == (1, len(request.boxes), 0)
    assert set(line["stages_ms"]) == set(STAGES)


def test_the_line_of_a_refused_query_names_the_field(server: LiveServer, log: io.StringIO) -> None:
    with pytest.raises(grpc.RpcError):
        server.supports.GetSupport(support_service_pb2.GetSupportRequest(name="x"), metadata=((REQUEST_ID, "bad-1"),))
    assert logged(log, "bad-1")["error"].startswith("name:")


def test_items_of_a_batch_are_timed_and_their_codes_stand_in_the_line(server: LiveServer, log: io.StringIO) -> None:
    before = server.metric("capeserve_item_duration_seconds_count", method="BatchEstimatePose")
    batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[query(support=f"supports/{'0' * 32}")] * 3)
    server.poses.BatchEstimatePose(batch, metadata=((REQUEST_ID, "batch-1"),))
    assert server.metric("capeserve_item_duration_seconds_count", method="BatchEstimatePose") == before + 3
    assert logged(log, "batch-1")["failed"] == {"NOT_FOUND": 3}


@pytest.mark.parametrize(
    "wrong",
    ["", "00-" + "0" * 32 + "-b7ad6b7169203331-01", f"ff-{TRACE}-b7ad6b7169203331-01", PARENT.upper(), PARENT + "0"],
)
def test_a_malformed_traceparent_is_no_trace(wrong: str) -> None:
    with request_scope(METHOD, [(TRACE_PARENT, wrong)], None) as request:
        assert request.trace_id == ""


def test_lines_for_people_end_with_the_id_and_others_do_not_change() -> None:
    record = logging.LogRecord("service", logging.INFO, "", 0, "full", (), None)
    with request_scope(METHOD, [(REQUEST_ID, "order-17")], None):
        assert TextFormatter().format(record).endswith("INFO service: full [order-17]")
    assert TextFormatter().format(record).endswith("INFO service: full")


async def test_a_batch_does_not_carry_the_id_of_the_request_that_started_it() -> None:
    seen = []

    class Watching(Batcher):
        async def _run(self, batch) -> None:
            seen.append(current_request())
            await super()._run(batch)

    batcher = Watching(NumpyEngine(), tiny_manifest())
    inputs = {"image": np.zeros((SIZE, SIZE, 3), dtype=np.uint8)}
    with request_scope(METHOD, [(REQUEST_ID, "order-17")], None) as request:
        assert current_request() == request
        await asyncio.create_task(batcher.submit("image_backbone", inputs, ["features"]))
    assert seen == [None]
    await batcher.close()
