"""StreamEstimatePose over HTTP: requests as lines of JSON, answers as server-sent events or lines of JSON.

Requests are read while answers are written, as fast as the server takes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Send

from cape.client.errors import CapeError, error_from_call
from gateway.rest.bodies import body_chunks, lines, media_type
from gateway.rest.problems import RequestError, problem, problem_response
from gateway.rest.rules import Binding
from gateway.rest.transcoding import fill_from_json, new_message, parse_json, to_json
from gateway.rest.upstream import Upstream

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
JSON = "application/json"


async def answer_stream(
    binding: Binding, upstream: Upstream, request: Request, send: Send, max_line_bytes: int
) -> None:
    """Answers a streaming call.

    Args:
        binding: of the method.
        upstream: the server.
        request: its body holds a JSON object per line (application/x-ndjson), or a list of them (application/json).
        send: ASGI.
        max_line_bytes: longest line, or list.
    """
    kind = media_type(request)
    if kind not in (LINES, JSON):
        error = RequestError(f"a stream's body is {LINES} or {JSON}, not {kind[:100] or 'nameless'}", status=415)
        await problem_response(error)(request.scope, request.receive, send)
        return
    writer = _Writer(send, as_lines=LINES in request.headers.get("accept", ""))
    failure: CapeError | RequestError | None = None
    wrong: list[RequestError | ClientDisconnect] = []
    left = asyncio.Event()
    try:
        call = upstream.stream(
            binding, _messages(binding, request.receive, kind == JSON, max_line_bytes, wrong, left), request
        )
    except RequestError as error:
        await problem_response(error)(request.scope, request.receive, send)
        return
    watching = asyncio.ensure_future(_cancel_when_left(left, call))
    try:
        async for answer in call:
            await writer.answer(answer)
    except grpc.RpcError as error:
        failure = error_from_call(error)
    except OSError:  # the caller closed the connection
        return
    except asyncio.CancelledError:
        if not left.is_set():
            raise
        return
    finally:
        watching.cancel()
        call.cancel()
    if left.is_set():
        return
    for mistake in wrong:
        if isinstance(mistake, RequestError):
            failure = mistake
    with contextlib.suppress(OSError):
        await writer.end(failure)


async def _messages(
    binding: Binding,
    receive: Receive,
    as_list: bool,
    longest: int,
    wrong: list[RequestError | ClientDisconnect],
    left: asyncio.Event,
) -> AsyncIterator[Message]:
    """Request messages of a body. What is wrong ends them and is put into `wrong`: gRPC would only log it."""
    count = 0
    try:
        async for content in _contents(receive, as_list, longest):
            message = new_message(binding.method.input_type)
            try:
                await asyncio.to_thread(fill_from_json, message, content)
            except RequestError as error:
                raise RequestError(f"item {count}: {error}", violations=error.violations) from None
            message.request_id = message.request_id or str(count)
            count += 1
            yield message
        asyncio.ensure_future(_watch(receive, left))  # noqa: RUF006  it ends with the connection
    except RequestError as error:
        wrong.append(error)
    except ClientDisconnect as error:
        wrong.append(error)
        left.set()


async def _contents(receive: Receive, as_list: bool, longest: int) -> AsyncIterator[Any]:
    """Parsed JSON of each item."""
    if not as_list:
        async for line in lines(body_chunks(receive), longest):
            yield parse_json(line)
        return
    body = bytearray()
    async for chunk in body_chunks(receive):
        body += chunk
        if len(body) > longest:
            raise RequestError(f"the body is over the limit of {longest:,} bytes", status=413)
    items = parse_json(bytes(body))
    for item in items if isinstance(items, list) else [items]:
        yield item


async def _watch(receive: Receive, left: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    left.set()


async def _cancel_when_left(left: asyncio.Event, call: Any) -> None:
    await left.wait()
    call.cancel()


class _Writer:
    """Writes answers in one of the two forms; the status line goes out with the first of them."""

    def __init__(self, send: Send, *, as_lines: bool) -> None:
        self._send = send
        self._as_lines = as_lines
        self._started = False

    async def answer(self, message: Any) -> None:
        """Writes an answer."""
        text = await asyncio.to_thread(to_json, message)
        await self._write(text if self._as_lines else f"event: answer\ndata: {text}", more=True)

    async def end(self, failure: CapeError | RequestError | None) -> None:
        """Writes why the stream failed, if it did, and ends it."""
        if failure is None:
            await self._write("" if self._as_lines else "event: end\ndata: {}", more=False)
            return
        content = problem(failure)
        if self._started:
            text = json.dumps({"problem": content})
            await self._write(text if self._as_lines else f"event: problem\ndata: {json.dumps(content)}", more=False)
            return
        await problem_response(failure)({"type": "http"}, _nothing, self._send)

    async def _write(self, text: str, *, more: bool) -> None:
        if not self._started:
            self._started = True
            kind = LINES if self._as_lines else EVENTS
            headers = [(b"content-type", f"{kind}; charset=utf-8".encode()), (b"cache-control", b"no-store")]
            # Proxies such as nginx otherwise hold events back until their buffer is full.
            headers.append((b"x-accel-buffering", b"no"))
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        end = "" if not text else "\n" if self._as_lines else "\n\n"
        await self._send({"type": "http.response.body", "body": f"{text}{end}".encode(), "more_body": more})


async def _nothing() -> Any:
    raise AssertionError("a problem is answered without reading the request")
