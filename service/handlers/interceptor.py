"""The interceptor of every call of cape.v1: limits, metrics, the log line, and errors turned into statuses."""

from __future__ import annotations

import asyncio
import logging
import random
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
from service.handlers.request_ids import request_id_metadata, with_request_id
from service.pipelines.deadlines import Context
from service.process.shutdown import Shutdown
from service.telemetry.call_facts import text_of
from service.telemetry.metrics import QUERY_METHODS, Metrics
from service.telemetry.outcomes import outcome_of
from service.telemetry.request_context import Tracer, current_request
from service.telemetry.spans import describe_span

logger = logging.getLogger(__name__)

PACKAGE = "/cape.v1."
"""Methods of other packages (health, reflection) are not counted: a full server still answers its probes."""

SMOOTHING = 0.1
"""Weight of the newest call in the running mean of the duration of answered calls."""

Behaviour = Callable[[Any, Context], Awaitable[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of cape.v1, which raise `service.errors`.

    Calls with one answer and streams are counted separately, so that idle streams do not keep other calls out.
    """

    def __init__(
        self,
        metrics: Metrics,
        max_in_flight: int,
        shutdown: Shutdown,
        tracer: Tracer | None = None,
        *,
        memory: MessageMemory | None = None,
        logged_share: float = 1.0,
    ) -> None:
        """Starts without calls.

        Args:
            metrics: gets every call's code and duration.
            max_in_flight: most calls with one answer at a time, and most streams.
            shutdown: refuses calls once it has begun, and waits for those that run.
            tracer: records spans; None where traces are off.
            memory: bounds the request messages that calls hold; None: unbounded.
            logged_share: share of the successful calls that are logged at INFO, 0–1; failed ones always are.
        """
        self._logged_share = logged_share
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
            with_request_id(self._guarded(behaviour, method, streams, caller, held), path, self._tracer),
            request_deserializer=_checked(handler.request_deserializer, caller.quota.max_message_bytes, held),
            response_serializer=handler.response_serializer,
        )

    def _guarded(
        self, behaviour: Behaviour, method: str, streams: bool, caller: Caller, held: HeldMessage | None
    ) -> Behaviour:
        async def guarded(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code, message = grpc.StatusCode.OK, ""
            failure: BaseException | None = None
            self._metrics.request_started(method)
            self._in_flight[streams] += 1
            self._shutdown.call_started()
            try:
                self._shutdown.refuse_if_begun()
                if self._in_flight[streams] > self._max_in_flight:
                    raise QueueFullError(self._typical_seconds)
                if (current := current_request()) is not None:
                    current.refuse_invalid_id()
                with caller.quota.call():
                    caller.quota.count_request()
                    if not streams:
                        return await behaviour(_decoded(request), context)
                    with caller.streams.opened():
                        return await behaviour(_decoded_each(request), context)
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
                message = status.message
                answer = rpc_status.to_status(status)
                return await context.abort(
                    answer.code, answer.details, (*answer.trailing_metadata, *request_id_metadata())
                )
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
                self._log(method, code, seconds, message)
                if caller is not EVERYBODY:
                    self._audit.answered(caller, method, context.peer(), code, seconds)

        return guarded

    def _log(self, method: str, code: grpc.StatusCode, seconds: float, message: str) -> None:
        """Writes the log line of a call that has ended."""
        sampled = code is not grpc.StatusCode.OK or random.random() < self._logged_share
        level = logging.INFO if sampled else logging.DEBUG
        if not logger.isEnabledFor(level):
            return
        current = current_request()
        facts = dict(current.facts) if current is not None else {}
        if message:
            facts["error"] = message
        fields = {"method": method, "code": code.name, "seconds": round(seconds, 6), **facts}
        text = f" {text_of(facts)}" if facts else ""
        logger.log(level, "%s %s %.1f ms%s", method, code.name, seconds * 1e3, text, extra={"fields": fields})


def _checked(
    deserialize: Callable[[bytes], Any], max_bytes: int | None, held: HeldMessage | None = None
) -> Callable[[bytes], Any]:
    """A deserializer that returns an error for bytes that are not a message; gRPC would answer INTERNAL.

    Messages of more than `max_bytes` become an error without being parsed.
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
    """A request; raises InvalidFieldError or MessageSizeError where `_checked` returned an error."""
    if isinstance(request, MessageSizeError):
        raise request
    if isinstance(request, DecodeError):
        raise InvalidFieldError("request", "not a message of the type that this method takes")
    return request


async def _decoded_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, each checked by `_decoded`."""
    async for request in requests:
        yield _decoded(request)
