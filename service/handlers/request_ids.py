"""Gives every call its id and its span, around whatever handles it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.telemetry.request_context import REQUEST_ID, Tracer, current_request, request_scope

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
Metadata = tuple[tuple[str, str | bytes], ...]


def identified(behaviour: Behaviour, path: str, tracer: Tracer | None) -> Behaviour:
    """A handler whose calls have an id, which their answers bring back.

    Args:
        behaviour: the handler.
        path: '/cape.v1.PoseService/EstimatePose'.
        tracer: records spans; None where traces are off.
    """

    async def named(request: Any, context: Context) -> Any:
        with request_scope(path, context.invocation_metadata(), tracer):
            context.set_trailing_metadata(identity())
            return await behaviour(request, context)

    return named


def identity() -> Metadata:
    """Trailing metadata that name the current call; `abort` needs them again, it replaces what was set."""
    request = current_request()
    return () if request is None else ((REQUEST_ID, request.id),)
