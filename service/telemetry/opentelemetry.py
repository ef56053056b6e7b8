"""Traces by OpenTelemetry, sent by OTLP over gRPC. The only place that imports it, and only when traces are on.

What its specification lets the environment say is heard: OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, and for the
connection OTEL_EXPORTER_OTLP_HEADERS and OTEL_EXPORTER_OTLP_CERTIFICATE.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cape import __version__
from service.telemetry.request_context import Attributes

SERVICE = "capeserve"

_PROPAGATOR = TraceContextTextMapPropagator()


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Sends spans to a collector.

    Args:
        endpoint: 'http://HOST:PORT' without TLS, 'https://HOST:PORT' with it.
    """
    return OTLPSpanExporter(endpoint=endpoint)


class OpenTelemetryTracer:
    """Records spans with OpenTelemetry. Implements `service.telemetry.request_context.Tracer`."""

    def __init__(self, exporter: SpanExporter, sample_ratio: float = 1.0) -> None:
        """Starts a thread that exports spans, some at a time.

        Args:
            exporter: where they go.
            sample_ratio: share of the traces begun here that are recorded, 0–1. A caller's traceparent decides for
                the caller's.
        """
        resource = Resource.create({"service.name": SERVICE, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(sample_ratio)))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE, __version__)

    @contextmanager
    def request(self, path: str, metadata: Mapping[str, str]) -> Iterator[str]:
        """See `service.telemetry.request_context.Tracer.request`."""
        service, _, method = path.lstrip("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        with self._tracer.start_as_current_span(
            path.lstrip("/"),
            context=_PROPAGATOR.extract(dict(metadata)),
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,  # how a call ends is a code, see `describe`; gRPC's abort raises, too
            set_status_on_exception=False,
        ) as span:
            yield format_trace_id(span.get_span_context().trace_id)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """See `service.telemetry.request_context.Tracer.span`.

        The texts of errors stay out: they may hold a caller's data.
        """
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as current:
            try:
                yield
            except Exception as error:
                current.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def record(self, name: str, seconds_ago: float, seconds: float) -> None:
        """See `service.telemetry.request_context.Tracer.record`."""
        started = time.time_ns() - round(seconds_ago * 1e9)
        self._tracer.start_span(name, start_time=started).end(started + round(seconds * 1e9))

    def describe(self, attributes: Attributes) -> None:
        """See `service.telemetry.request_context.Tracer.describe`."""
        trace.get_current_span().set_attributes(attributes)

    def headers(self) -> tuple[tuple[str, str], ...]:
        """See `service.telemetry.request_context.Tracer.headers`."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return tuple(carrier.items())

    def close(self) -> None:
        """Sends what is left; blocks, for 10 seconds at most where the collector is away."""
        self._provider.force_flush(10_000)
        self._provider.shutdown()
