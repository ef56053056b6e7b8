"""The gRPC channel to the server, and calls on it that end when their caller leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request

from cape.client import ConnectionOptions
from cape.client.errors import error_from_call
from gateway.rest.problems import RequestError
from gateway.rest.rules import Binding

_Result = TypeVar("_Result")


class CallerLeftError(Exception):
    """The HTTP caller closed the connection before the answer was ready."""


class Upstream:
    """Calls the capeserve server; created while the event loop runs."""

    def __init__(self, target: str, options: ConnectionOptions) -> None:
        self._options = options
        credentials = options.credentials
        self._channel = (
            grpc.aio.insecure_channel(target, options.channel_options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options.channel_options)
        )

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def unary(self, binding: Binding, message: Message, request: Request) -> Message:
        """Calls a method with one request and one answer.

        Raises:
            CapeError: the call failed.
            CallerLeftError: the HTTP caller left; the call is cancelled.
        """
        call = self._channel.unary_unary(binding.grpc_path, **_serializers(binding))
        try:
            return await _unless_left(
                _awaited(call(message, timeout=self._timeout(request), metadata=self._metadata(request))),
                request.receive,
            )
        except grpc.RpcError as error:
            raise error_from_call(error) from None

    def stream(self, binding: Binding, messages: AsyncIterator[Message], request: Request) -> Any:
        """Starts a call with a stream of requests and a stream of answers."""
        call = self._channel.stream_stream(binding.grpc_path, **_serializers(binding))
        return call(messages, metadata=self._metadata(request))

    def _metadata(self, request: Request) -> tuple[tuple[str, str], ...]:
        """The caller's own token; the gateway's where the caller sends none."""
        authorization = request.headers.get("authorization")
        if authorization is None:
            return self._options.metadata
        if not (authorization.isascii() and authorization.isprintable()):
            raise RequestError("the Authorization header holds characters that no token has")
        return (("authorization", authorization),)

    def _timeout(self, request: Request) -> float | None:
        """Seconds for the call: as the caller says (`Prefer: wait=5`, RFC 7240), at most the gateway's own."""
        for preference in request.headers.get("prefer", "").split(","):
            name, _, value = preference.partition("=")
            if name.strip().lower() == "wait" and value.strip().isdecimal() and int(value) > 0:
                return min(float(value), self._options.timeout or float(value))
        return self._options.timeout


def _serializers(binding: Binding) -> dict[str, Any]:
    answer = GetMessageClass(binding.method.output_type)
    return {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": answer.FromString,
    }


async def _awaited(call: Awaitable[_Result]) -> _Result:
    return await call


async def _unless_left(work: Coroutine[Any, Any, _Result], receive: Callable[[], Awaitable[Any]]) -> _Result:
    """The result of `work`, which is cancelled when the HTTP caller leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerLeftError
        return working.result()
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, grpc.RpcError):
                    await task


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
