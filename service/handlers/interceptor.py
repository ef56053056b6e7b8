"""What every call of cape.v1 passes through: limits, deadlines, metrics, and errors made into statuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from service.access.audit import Audit
from service.access.callers import EVERYBODY, Caller, current_caller
from service.errors import (
    CallerLimitError,
    DeadlineError,
    InvalidFieldError,
    MessageSizeError,
    QueueFullError,
    ServiceError,
)
from service.handlers.error_statuses import grpc_code, status_of
from service.handlers.message_memory import HeldMessage, MessageMemory
from service.handlers.request_ids import identified, identity
from service.pipelines.deadlines import Context
from service.shutdown import Shutdown
from service.telemetry.metrics import QUERY_METHODS, Metrics
from service.telemetry.outcomes import outcome_of
from service.telemetry.request_context import Tracer, current_request
from service.telemetry.spans import describe_span

logger = logging.getLogger(__name__)

PACKAGE = "/cape.v1."
"""Methods of other packages (health, reflection) are left alone: a full server still answers its probes."""

SMOOTHING = 0.1
"""Weight of the newest call in the running mean of how long answered calls take."""

Behaviour = Callable[[Any, Context], Awaitable[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of cape.v1, which may simply raise what goes wrong.

    Calls with one answer and streams are counted apart, so that idle streams cannot keep the former out.
    """

    def __init__(
        self,
        metrics: Metrics,
        max_in_flight: int,
        shutdown: Shutdown,
        tracer: Tracer | None = None,
        memory: MessageMemory | None = None,
    ) -> None:
        """Starts without calls.

        Args:
            metrics: gets every call's code and duration.
            max_in_flight: most calls with one answer at a time, and most streams.
            shutdown: refuses calls once it has begun, and waits for those that run.
            tracer: records spans; None where traces are off.
            memory: bounds the request messages that calls hold; None: unbounded.
        """
        self._shutdown = shutdown
        self._tracer = tracer
        self._metrics = metrics
        self._audit = Audit()
        self._max_in_flight = max_in_flight
        self._memory = memory
        self._in_flight = {False: 0, True: 0}
        self._typical_seconds = 0.1

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        self._shutdown.call_arrived()
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or not path.startswith(PACKAGE):
            return handler
        method = path.rpartition("/")[2]
        streams = handler.request_streaming
        behaviour = handler.stream_stream if streams else handler.unary_unary
        make = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        caller = current_caller()
        held = None if streams or self._memory is None else await self._memory.admit()
        return make(
            identified(self._guarded(behaviour, method, streams, caller, held), path, self._tracer),
            request_deserializer=_forgiving(handler.request_deserializer, caller.quota.max_message_bytes, held),
            response_serializer=handler.response_serializer,
        )

    def _guarded(
        self, behaviour: Behaviour, method: str, streams: bool, caller: Caller, held: HeldMessage | None
    ) -> Behaviour:
        async def guarded(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            failure: BaseException | None = None
            self._metrics.request_started(method)
            self._in_flight[streams] += 1
            self._shutdown.call_started()
            try:
                self._shutdown.refuse_if_begun()
                if self._in_flight[streams] > self._max_in_flight:
                    raise QueueFullError(self._typical_seconds)
                with caller.quota.call():
                    caller.quota.count_request()
                    return await behaviour(_decoded_each(request) if streams else _decoded(request), context)
            except asyncio.CancelledError:
                # gRPC cancels the handler when its deadline passes, too.
                remaining = context.time_remaining()
                late = remaining is not None and remaining <= 0
                failure = DeadlineError("") if late else asyncio.CancelledError()
                code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                failure = error
                if isinstance(error, CallerLimitError | MessageSizeError):
                    self._metrics.caller_refused("size" if isinstance(error, MessageSizeError) else error.limit)
                status = status_of(error)
                code = grpc_code(status)
                answer = rpc_status.to_status(status)
                return await context.abort(answer.code, answer.details, (*answer.trailing_metadata, *identity()))
            finally:
                seconds = time.perf_counter() - started
                if not streams and code is grpc.StatusCode.OK:
                    self._typical_seconds += SMOOTHING * (seconds - self._typical_seconds)
                if held is not None:
                    held.release()
                self._in_flight[streams] -= 1
                self._shutdown.call_ended()
                request_context = current_request()
                traced = request_context.trace_id if request_context and request_context.tracer else ""
                self._metrics.request_finished(method, code.name, seconds, traced)
                # Batches and streams count their own items. A call that is refused as a whole counts as one.
                if method == "EstimatePose" or (method in QUERY_METHODS and isinstance(failure, ServiceError)):
                    self._metrics.item_finished(method, outcome_of(failure), caller.tenant)
                describe_span({"rpc.grpc.status_code": code.value[0]})
                fields = {"method": method, "code": code.name, "seconds": round(seconds, 6)}
                level = logging.DEBUG if code is grpc.StatusCode.OK else logging.INFO
                logger.log(level, "%s %s %.1f ms", method, code.name, seconds * 1e3, extra={"fields": fields})
                if caller is not EVERYBODY:
                    self._audit.answered(caller, method, context.peer(), code, seconds)

        return guarded


def _forgiving(
    deserialize: Callable[[bytes], Any], max_bytes: int | None, held: HeldMessage | None = None
) -> Callable[[bytes], Any]:
    """Hands bytes that are no message on as an error: gRPC would answer INTERNAL, as if it were our fault.

    So are messages of more than `max_bytes`, which are not looked into.
    """

    def deserialized(data: bytes) -> Any:
        if held is not None:
            held.arrived(len(data))
        if max_bytes is not None and len(data) > max_bytes:
            return MessageSizeError(f"a message of {len(data):,} bytes; this token allows {max_bytes:,}")
        try:
            return deserialize(data)
        except DecodeError as error:
            return error

    return deserialized


def _decoded(request: Any) -> Any:
    """A request, unless its bytes were no message, or too many: then raises InvalidFieldError or MessageSizeError."""
    if isinstance(request, MessageSizeError):
        raise request
    if isinstance(request, DecodeError):
        raise InvalidFieldError("request", "not a message of the type that this method takes")
    return request


async def _decoded_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, each passed through `_decoded`."""
    async for request in requests:
        yield _decoded(request)
