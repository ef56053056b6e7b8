"""Traces: one tree a call, from the caller's span down to the rows at the engine, and on to Triton."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is missing: pip install 'capeserve[tracing]'")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cape.v1 import model_service_pb2, pose_service_pb2
from export.triton.local.server import Ports, triton_server
from service.telemetry.opentelemetry import OpenTelemetryTracer
from service.telemetry.request_context import TRACE_PARENT
from tests.service.live_server import START, LiveServer, ServerProcess, settings_for
from tests.service.messages import query
from tests.service.trace_collectors import GrpcCollector, HttpCollector

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = ((TRACE_PARENT, f"00-{TRACE}-{PARENT}-01"),)
NOT_SAMPLED = ((TRACE_PARENT, f"00-{TRACE}-{PARENT}-00"),)
ESTIMATE = "cape.v1.PoseService/EstimatePose"


class Traced:
    """A server whose spans stay in memory."""

    def __init__(self, server: LiveServer, exporter: InMemorySpanExporter, tracer: OpenTelemetryTracer) -> None:
        self.server = server
        self._exporter = exporter
        self._tracer = tracer

    def spans(self, name: str) -> list[ReadableSpan]:
        """Every finished span, once one of that name is among them: the call's ends a moment after its answer."""
        end = time.monotonic() + 10
        while name not in {span.name for span in self._exporter.get_finished_spans()}:
            assert time.monotonic() < end, f"there is no span {name}"
            self._tracer._provider.force_flush()
            time.sleep(0.01)
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def traced(tiny_repository: Path) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    tracer = OpenTelemetryTracer(exporter)
    with LiveServer(settings_for(tiny_repository), tracer=tracer) as server:
        yield Traced(server, exporter, tracer)
    tracer.close()


def trace_id(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def below(spans: list[ReadableSpan], parent: ReadableSpan) -> set[str]:
    """Names of a span's children."""
    return {span.name for span in spans if span.parent is not None and span.parent.span_id == parent.context.span_id}


def test_a_call_is_a_tree_below_the_callers_span(traced: Traced) -> None:
    assert traced.server.poses.EstimatePose(query(), metadata=SAMPLED).instances
    spans = traced.spans(ESTIMATE)
    by_name = {span.name: span for span in spans}
    call = by_name[ESTIMATE]
    assert {trace_id(span) for span in spans} == {TRACE}
    assert f"{call.parent.span_id:016x}" == PARENT
    assert call.attributes["rpc.grpc.status_code"] == 0
    assert {"decode", "prepare", "support", "backbone", "decoder"} <= below(spans, call)
    assert below(spans, by_name["backbone"]) == {"run image_backbone"}
    assert below(spans, by_name["decoder"]) == {"run pose_decoder"}
    assert {"run image_backbone", "run text_encoder", "run support_fusion"} <= below(spans, by_name["support"])
    assert by_name["support"].attributes["capeserve.support_cache_hit"] is False
    assert by_name["run pose_decoder"].attributes["capeserve.run_seconds"] > 0


def test_stages_that_ran_in_a_thread_lie_within_their_call(traced: Traced) -> None:
    traced.server.poses.EstimatePose(query(), metadata=SAMPLED)
    by_name = {span.name: span for span in traced.spans(ESTIMATE)}
    call, decode, prepare = by_name[ESTIMATE], by_name["decode"], by_name["prepare"]
    slack = 5_000_000  # ns: monotonic times are turned into wall times
    assert call.start_time - slack <= decode.start_time <= decode.end_time <= prepare.start_time + slack
    assert prepare.end_time <= call.end_time + slack


def test_each_item_of_a_batch_has_a_span_of_its_own(traced: Traced) -> None:
    batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[query(), query()])
    traced.server.poses.BatchEstimatePose(batch, metadata=SAMPLED)
    spans = traced.spans("cape.v1.PoseService/BatchEstimatePose")
    items = [span for span in spans if span.name == "query"]
    assert len(items) == 2
    assert all({"decode", "decoder"} <= below(spans, item) for item in items)


def test_a_refused_call_says_its_code_and_nothing_of_the_request(traced: Traced) -> None:
    with pytest.raises(grpc.RpcError):
        traced.server.poses.EstimatePose(query(b"secret bytes"), metadata=SAMPLED)
    call = next(span for span in traced.spans(ESTIMATE) if span.name == ESTIMATE)
    assert call.attributes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert not call.events
    assert "secret" not in call.to_json()


def test_what_the_caller_does_not_sample_is_not_recorded(traced: Traced) -> None:
    traced.server.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=NOT_SAMPLED)
    traced.server.poses.EstimatePose(query(), metadata=SAMPLED)
    assert "cape.v1.ModelService/ListModels" not in {span.name for span in traced.spans(ESTIMATE)}


def test_spans_reach_a_collector_the_last_ones_when_the_server_stops(tiny_repository: Path) -> None:
    with GrpcCollector() as collector:
        arguments = ["--repository", tiny_repository, "--port", 0, "--metrics-port", 0, "--registry", "sqlite://"]
        arguments += ["--threads", 1, "--tracing-endpoint", collector.endpoint]
        with ServerProcess(*arguments) as server:
            server.poses.EstimatePose(query(), metadata=SAMPLED)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=60) == 0
        assert {ESTIMATE, "decode", "run pose_decoder"} <= {span.name for span in collector.spans}
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


def test_opentelemetry_is_not_imported_where_traces_are_off(tiny_repository: Path) -> None:
    prologue = "import atexit, sys\natexit.register(lambda: print(sorted(sys.modules), file=sys.stderr))"
    arguments = ["--repository", tiny_repository, "--port", 0, "--metrics-port", 0, "--registry", "sqlite://"]
    with ServerProcess(*arguments, prologue=prologue) as server:
        server.process.send_signal(signal.SIGTERM)
        _, modules = server.process.communicate(timeout=60)
    assert "service.telemetry.spans" in modules
    assert "opentelemetry" not in modules


def test_the_extra_that_traces_need_is_named(tiny_repository: Path) -> None:
    prologue = (
        "import sys\nclass Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'opentelemetry': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())"
    )
    arguments = ["serve", "--repository", str(tiny_repository), "--tracing-endpoint", "http://127.0.0.1:4317"]
    command = [sys.executable, "-c", f"{prologue}\n{START}", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "tracing_endpoint needs opentelemetry: pip install 'capeserve[tracing]'" in finished.stderr.splitlines()[-1]


@pytest.mark.slow
def test_triton_continues_the_trace(triton_installation, triton_repository: Path, tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    tracer = OpenTelemetryTracer(exporter)
    with HttpCollector() as collector:
        with (
            (tmp_path / "triton.log").open("wb") as log,
            triton_server(
                triton_installation,
                triton_repository,
                log=log,
                ports=Ports(0, 0, 0),
                traces=collector.endpoint,
            ) as triton,
        ):
            settings = settings_for(triton_repository, engine="triton", triton_url=triton.grpc)
            with LiveServer(settings, tracer=tracer) as server:
                server.poses.EstimatePose(query(), metadata=SAMPLED)
        tracer.close()
        ours = {f"{span.context.span_id:016x}": span.name for span in exporter.get_finished_spans()}
        theirs = [span for span in collector.spans if span.trace_id.hex() == TRACE]
        joined = {ours[span.parent_span_id.hex()] for span in theirs if span.parent_span_id.hex() in ours}
        assert {"run image_backbone", "run text_encoder", "run support_fusion"} <= joined
