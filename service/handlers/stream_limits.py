"""Limits on the streams that need no token: health watches and reflection.

They belong to no tenant and last as long as the client likes, so nothing else bounds them.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health

MAX_STREAMS = {
    f"/{health.SERVICE_NAME}/Watch": 100,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": 20,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": 20,
}
"""Most concurrent streams of a method, over all connections."""

MAX_STREAMS_OF_A_CONNECTION = 10


class StreamLimitInterceptor(grpc.aio.ServerInterceptor):
    """Refuses health watches and reflection streams beyond their limits with RESOURCE_EXHAUSTED."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method not in MAX_STREAMS:
            return handler
        behaviour = handler.stream_stream or handler.unary_stream
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(
            self._limited(behaviour, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _limited(self, behaviour: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Awaitable[None]]:
        async def limited(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            connection = f"{method} {context.peer()}"
            if self._open[method] >= MAX_STREAMS[method] or self._open[connection] >= MAX_STREAMS_OF_A_CONNECTION:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"too many open streams of {method}")
            self._open[method] += 1
            self._open[connection] += 1
            try:
                answers = behaviour(request, context)
                if inspect.isasyncgen(answers):
                    async for answer in answers:
                        await context.write(answer)
                else:
                    await answers
            finally:
                self._open[method] -= 1
                self._open[connection] -= 1
                if not self._open[connection]:
                    del self._open[connection]

        return limited
