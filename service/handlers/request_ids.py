"""Request ids: every call gets one, and its answer returns it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.telemetry.request_context import REQUEST_ID, Tracer, current_request, request_scope

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
Metadata = tuple[tuple[str, str | bytes], ...]


def with_request_id(behaviour: Behaviour, path: str, tracer: Tracer | None) -> Behaviour:
    """Wraps a handler so that its calls have an id and a span.

    Args:
        behaviour: the handler.
        path: '/cape.v1.PoseService/EstimatePose'.
        tracer: records spans; None where traces are off.
    """

    async def named(request: Any, context: Context) -> Any:
        with request_scope(path, context.invocation_metadata(), tracer):
            context.set_trailing_metadata(request_id_metadata())
            return await behaviour(request, context)

    return named


def request_id_metadata() -> Metadata:
    """Trailing metadata with the id of the current call. `abort` needs them again: it replaces what was set before."""
    request = current_request()
    return () if request is None else ((REQUEST_ID, request.id),)
