"""OpenTelemetry collectors that keep what they are sent: over gRPC as we send it, as JSON over HTTP as Triton does."""

from __future__ import annotations

import base64
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


class GrpcCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """A context manager.

    Attributes:
        spans: what has arrived.
        endpoint: for --tracing-endpoint.
    """

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []
        self._server = grpc.server(ThreadPoolExecutor(1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(self, request, context):  # noqa: N802
        self.spans += spans_of(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def __enter__(self) -> GrpcCollector:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.stop(None).wait()


class HttpCollector:
    """A context manager.

    Attributes:
        spans: what has arrived.
        endpoint: for Triton's `opentelemetry,url`.
    """

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = trace_service_pb2.ExportTraceServiceRequest()
                # OTLP's JSON has identifiers in hexadecimal, where protobuf's has bytes in base64.
                body = re.sub(rb'("(?:trace|span|parentSpan)Id": *)"([0-9a-f]*)"', _base64, body)
                json_format.Parse(body, request)
                collector.spans += spans_of(request)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def __enter__(self) -> HttpCollector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


def _base64(field: re.Match[bytes]) -> bytes:
    return field[1] + b'"' + base64.b64encode(bytes.fromhex(field[2].decode())) + b'"'


def spans_of(request: trace_service_pb2.ExportTraceServiceRequest) -> list[trace_pb2.Span]:
    """The spans of a message."""
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
