"""What a request is called in logs, traces and its answer, wherever in the program something happens for it.

Every call has an id: the caller's own, from `x-request-id`, or one that is made up; it goes back in the trailing
metadata of the answer. A caller's W3C `traceparent` gives it a trace id as well, whether or not traces are recorded
here. Both are known to whatever runs in the call's task and the tasks that this starts; work that several calls
share, such as a batch, belongs to none.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeAlias

REQUEST_ID = "x-request-id"
TRACE_PARENT = "traceparent"

USABLE_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
"""What a caller may call its request: enough for UUIDs and ULIDs, too little to forge a line of the log."""

TRACE_PARENT_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2."""

Attributes: TypeAlias = Mapping[str, str | int | float | bool]


class Tracer(Protocol):
    """Records spans; see `service.telemetry.opentelemetry`, the only place that knows OpenTelemetry."""

    def request(self, path: str, metadata: Mapping[str, str]) -> AbstractContextManager[str]:
        """Opens the span of a call, below the one that its metadata name.

        Args:
            path: '/cape.v1.PoseService/EstimatePose'.
            metadata: what came with the call.

        Yields:
            The trace id, 32 hexadecimal digits.
        """

    def span(self, name: str) -> AbstractContextManager[None]:
        """Opens a span below the current one; an exception that passes makes it an error."""

    def record(self, name: str, seconds_ago: float, seconds: float) -> None:
        """Adds a span that began so long ago and took so long."""

    def describe(self, attributes: Attributes) -> None:
        """Adds attributes to the current span."""

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Metadata that make a call to another server part of the current trace."""


@dataclass(frozen=True, slots=True)
class CurrentRequest:
    """The call that is being worked on.

    Attributes:
        id: the caller's, or made up.
        trace_id: 32 hexadecimal digits; empty where nobody traces.
        tracer: records its spans; None where traces are off.
    """

    id: str
    trace_id: str
    tracer: Tracer | None


_current: ContextVar[CurrentRequest | None] = ContextVar("request", default=None)


def current_request() -> CurrentRequest | None:
    """The call that this code runs for; None outside of one."""
    return _current.get()


@contextmanager
def request_scope(
    path: str, metadata: Iterable[tuple[str, str | bytes]] | None, tracer: Tracer | None
) -> Iterator[CurrentRequest]:
    """Makes a call the current one.

    Args:
        path: '/cape.v1.PoseService/EstimatePose'.
        metadata: what came with the call.
        tracer: records its spans; None where traces are off.
    """
    texts = {key: value for key, value in metadata or () if isinstance(value, str)}
    name = texts.get(REQUEST_ID, "")
    identity = name if USABLE_ID.fullmatch(name) else uuid.uuid4().hex
    if tracer is None:
        parent = TRACE_PARENT_FORM.fullmatch(texts.get(TRACE_PARENT, ""))
        with _entered(CurrentRequest(identity, parent["trace"] if parent else "", None)) as request:
            yield request
        return
    with tracer.request(path, texts) as trace_id, _entered(CurrentRequest(identity, trace_id, tracer)) as request:
        tracer.describe({"capeserve.request_id": identity})
        yield request


@contextmanager
def _entered(request: CurrentRequest) -> Iterator[CurrentRequest]:
    token = _current.set(request)
    try:
        yield request
    finally:
        _current.reset(token)
