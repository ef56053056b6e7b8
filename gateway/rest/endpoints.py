"""One HTTP endpoint per binding of cape.v1."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cape.client.errors import CapeError
from gateway.rest.bodies import check_length, drain, form_parts, limited, media_type
from gateway.rest.events import answer_stream
from gateway.rest.problems import RequestError, problem_response
from gateway.rest.rules import Binding, bindings
from gateway.rest.transcoding import (
    fill_from_form,
    fill_from_json,
    fill_from_path,
    fill_from_query,
    new_message,
    parse_json,
    to_json,
)
from gateway.rest.upstream import CallerLeftError, Upstream

JSON = "application/json"
FORM = "multipart/form-data"
LEFT = Response(status_code=499)
"""Answer to a caller who has left; nobody reads it."""

GetUpstream = Callable[[], Upstream]
"""The upstream is made when the application starts, after the routes."""


def routes(upstream: GetUpstream, max_body_bytes: int) -> list[Route]:
    """Routes of all of cape.v1."""
    return [
        Route(
            binding.path,
            _Stream(binding, upstream, max_body_bytes)
            if binding.streams
            else _unary(binding, upstream, max_body_bytes),
            methods=[binding.verb],
            name=f"{binding.method.name}-{binding.index}",
        )
        for binding in bindings()
    ]


def _unary(binding: Binding, upstream: GetUpstream, max_body_bytes: int) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        receive = request.receive
        try:
            check_length(request, max_body_bytes)
            request = Request(request.scope, limited(receive, max_body_bytes))
            message = await _request_message(binding, request)
            answer = await upstream().unary(binding, message, request)
            text = await asyncio.to_thread(to_json, answer)
        except (CallerLeftError, ClientDisconnect):
            return LEFT
        except (CapeError, RequestError) as error:
            if isinstance(error, RequestError) and error.status == 413:
                await drain(receive, 2 * max_body_bytes)
            return problem_response(error, binding.body)
        return Response(text, media_type=JSON)

    return endpoint


class _Stream:
    """Endpoint of a streaming method. A class, so that Starlette hands over the ASGI connection itself."""

    def __init__(self, binding: Binding, upstream: GetUpstream, max_body_bytes: int) -> None:
        self._binding = binding
        self._upstream = upstream
        self._max_line_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection (ASGI)."""
        await answer_stream(self._binding, self._upstream(), Request(scope, receive), send, self._max_line_bytes)


async def _request_message(binding: Binding, request: Request) -> Message:
    """The gRPC request that an HTTP request means.

    Raises:
        RequestError: something is wrong with it.
    """
    message: Message = new_message(binding.method.input_type)
    if binding.body:
        target = message if binding.body == "*" else getattr(message, binding.body)
        if target is not message:
            target.SetInParent()
        kind = media_type(request)
        if kind == FORM:
            parts = await form_parts(request)
            await asyncio.to_thread(fill_from_form, target, parts)
        elif kind == JSON or (not kind and binding.body):
            content = await request.body()
            await asyncio.to_thread(_fill_json, target, content)
        else:
            raise RequestError(f"a body is {JSON} or {FORM}, not {kind[:100]}", status=415)
    fill_from_path(message, _variables(binding, request.path_params))
    if not binding.body:
        # Read to its end: what follows on the connection is whether the caller has left.
        await request.body()
        fill_from_query(message, request.query_params.multi_items())
    elif request.query_params:
        name = next(iter(request.query_params))
        raise RequestError(f"{name[:100]}: there is no such query parameter")
    return message


def _fill_json(target: Any, content: bytes) -> None:
    fill_from_json(target, parse_json(content))


def _variables(binding: Binding, parameters: dict[str, Any]) -> dict[str, str]:
    return {name: f"{prefix}{parameters[name]}" for name, prefix in binding.prefixes.items()}
