"""The context of a request: its id, its trace, and facts for its log line.

Every call has an id: the caller's, from `x-request-id`, or a random one. The trailing metadata of the answer return it.
A caller's W3C `traceparent` adds a trace id, whether or not this server records traces. Both are available in the
call's task and the tasks that it starts. Work that several calls share, such as a batch, belongs to none of them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from service.errors import InvalidFieldError

REQUEST_ID = "x-request-id"
TRACE_PARENT = "traceparent"

REQUEST_ID_FORM = re.compile(r"[\w.:-]{1,64}", re.ASCII)
"""Form of a caller's request id. Fits UUIDs and ULIDs, and cannot forge lines of the log."""

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
    """The current call.

    Attributes:
        id: the caller's, or a random one.
        method: bare name of its method, 'EstimatePose'.
        trace_id: 32 hexadecimal digits; empty without a trace.
        tracer: records its spans; None where traces are off.
        has_invalid_id: whether the caller's id does not have the required form, so that `id` is a random one.
        facts: fields for its log line.
    """

    id: str
    method: str
    trace_id: str
    tracer: Tracer | None
    has_invalid_id: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def refuse_invalid_id(self) -> None:
        """Refuses a call whose id does not have the required form: its caller could not find it in the log.

        Raises:
            InvalidFieldError: the metadata 'x-request-id'.
        """
        if self.has_invalid_id:
            raise InvalidFieldError(REQUEST_ID, "must be 1 to 64 of the characters A-Z a-z 0-9 _ . : -")


_current: ContextVar[CurrentRequest | None] = ContextVar("request", default=None)


def current_request() -> CurrentRequest | None:
    """The current call; None outside of one."""
    return _current.get()


@contextmanager
def request_scope(
    path: str, metadata: Iterable[tuple[str, str | bytes]] | None, tracer: Tracer | None
) -> Iterator[CurrentRequest]:
    """Makes a call the current one for the duration of a block.

    Args:
        path: '/cape.v1.PoseService/EstimatePose'.
        metadata: of the call.
        tracer: records its spans; None where traces are off.
    """
    texts = {key: value for key, value in metadata or () if isinstance(value, str)}
    given = texts.get(REQUEST_ID)
    valid = given is not None and REQUEST_ID_FORM.fullmatch(given) is not None
    identity = given if given is not None and valid else uuid.uuid4().hex
    invalid, method = given is not None and not valid, path.rpartition("/")[2]
    if tracer is None:
        parent = TRACE_PARENT_FORM.fullmatch(texts.get(TRACE_PARENT, ""))
        with _entered(CurrentRequest(identity, method, parent["trace"] if parent else "", None, invalid)) as request:
            yield request
        return
    with (
        tracer.request(path, texts) as trace_id,
        _entered(CurrentRequest(identity, method, trace_id, tracer, invalid)) as request,
    ):
        tracer.describe({"capeserve.request_id": identity})
        yield request


@contextmanager
def _entered(request: CurrentRequest) -> Iterator[CurrentRequest]:
    token = _current.set(request)
    try:
        yield request
    finally:
        _current.reset(token)
