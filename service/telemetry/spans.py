"""Spans of the current request's trace; where there is no request, or traces are off, none of this does anything."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from service.telemetry.request_context import Attributes, Tracer, current_request

_NOTHING: nullcontext[None] = nullcontext()


def _tracer() -> Tracer | None:
    request = current_request()
    return None if request is None else request.tracer


def span(name: str) -> AbstractContextManager[None]:
    """A span around a block; an exception that leaves it makes it an error."""
    tracer = _tracer()
    return _NOTHING if tracer is None else tracer.span(name)


def record_span(name: str, seconds_ago: float, seconds: float) -> None:
    """A span of something that began `seconds_ago` and took `seconds`: for what ran in a thread."""
    if (tracer := _tracer()) is not None:
        tracer.record(name, seconds_ago, seconds)


def describe_span(attributes: Attributes) -> None:
    """Adds attributes to the span that this code runs in."""
    if (tracer := _tracer()) is not None:
        tracer.describe(attributes)


def trace_headers() -> tuple[tuple[str, str], ...]:
    """Metadata that make a call to another server part of this trace."""
    tracer = _tracer()
    return () if tracer is None else tracer.headers()
