"""PoseService: one query, many in one message, or a stream of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from cape.v1 import pose_service_pb2, pose_service_pb2_grpc
from service.access.callers import current_caller
from service.batching.scheduler import Priority, Work, working_for
from service.errors import CallerLimitError, InvalidFieldError, ServiceError, UnavailableError
from service.handlers.error_statuses import grpc_code, status_of
from service.pipelines.answers import AnswerRoom
from service.pipelines.deadlines import Context, call_deadline, deadline_of
from service.pipelines.query import Estimation, Partial
from service.process.shutdown import SHUTTING_DOWN, Shutdown
from service.process.tasks import all_of, together
from service.telemetry.call_facts import item_failed
from service.telemetry.metrics import Metrics
from service.telemetry.outcomes import outcome_of
from service.telemetry.spans import span


class PoseService(pose_service_pb2_grpc.PoseServiceServicer):
    """Finds the keypoints of a support in query images."""

    def __init__(
        self,
        estimation: Estimation,
        *,
        default_deadline: float,
        max_batch_items: int,
        batch_concurrency: int,
        stream_concurrency: int,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> None:
        """Takes what answers queries, and the limits.

        Args:
            estimation: answers queries.
            default_deadline: seconds that a query may take when its caller does not say.
            max_batch_items: most queries of a batch.
            batch_concurrency: queries of one batch that are worked on at a time.
            stream_concurrency: queries of one stream that are read before one of them is answered.
            metrics: counts the items of batches and streams.
            shutdown: ends streams once it has begun.
        """
        self._estimation = estimation
        self._default_deadline = default_deadline
        self._max_batch_items = max_batch_items
        self._batch_concurrency = batch_concurrency
        self._stream_concurrency = stream_concurrency
        self._metrics = metrics
        self._draining = shutdown.begun

    async def EstimatePose(  # noqa: N802
        self, request: pose_service_pb2.EstimatePoseRequest, context: Context
    ) -> pose_service_pb2.EstimatePoseResponse:
        """See pose_service.proto."""
        current_caller().quota.charge(_objects(request) - 1)  # the call itself has been counted
        with working_for(_work(context, request.options.priority, "interactive")):
            return await self._estimation.answer(request, deadline_of(context, self._default_deadline))

    async def BatchEstimatePose(  # noqa: N802
        self, request: pose_service_pb2.BatchEstimatePoseRequest, context: Context
    ) -> pose_service_pb2.BatchEstimatePoseResponse:
        """See pose_service.proto."""
        if not 1 <= len(request.requests) <= self._max_batch_items:
            raise InvalidFieldError(
                "requests", f"{len(request.requests)}; between 1 and {self._max_batch_items} are needed"
            )
        deadline = call_deadline(context)
        slots = asyncio.Semaphore(self._batch_concurrency)
        room = self._estimation.answer_room()
        current_caller().quota.charge(sum(map(_objects, request.requests)) - 1)

        async def item(query: pose_service_pb2.EstimatePoseRequest) -> pose_service_pb2.EstimatePoseResult:
            with working_for(_work(context, query.options.priority, "bulk")):
                async with slots:
                    return await self._result("BatchEstimatePose", query, deadline, room=room)

        return pose_service_pb2.BatchEstimatePoseResponse(
            results=await all_of(item(query) for query in request.requests)
        )

    async def StreamEstimatePose(  # type: ignore[override]  # noqa: N802
        self, requests: AsyncIterator[pose_service_pb2.StreamEstimatePoseRequest], context: Context
    ) -> None:
        """See pose_service.proto.

        A slot is given back only once its answer is written: a caller who does not read stops being read, and
        gRPC's flow control passes that on.
        """
        slots = asyncio.Semaphore(self._stream_concurrency)
        writing = asyncio.Lock()

        async def write(request_id: str, result: pose_service_pb2.EstimatePoseResult, *, partial: bool = False) -> None:
            async with writing:
                await context.write(
                    pose_service_pb2.StreamEstimatePoseResponse(request_id=request_id, result=result, partial=partial)
                )

        async def item(message: pose_service_pb2.StreamEstimatePoseRequest, refusal: Exception | None) -> None:
            try:
                if refusal is not None:
                    self._metrics.item_finished("StreamEstimatePose", outcome_of(refusal), current_caller().tenant)
                    error = pose_service_pb2.EstimatePoseResult(error=status_of(refusal))
                    await write(message.request_id, error)
                    return
                deadline = call_deadline(context)
                if not message.request.options.partial_answers:
                    await write(message.request_id, await self._result("StreamEstimatePose", message.request, deadline))
                    return
                parts: asyncio.Queue[pose_service_pb2.EstimatePoseResponse | None] = asyncio.Queue()

                async def answer() -> pose_service_pb2.EstimatePoseResult:
                    try:
                        return await self._result("StreamEstimatePose", message.request, deadline, parts.put_nowait)
                    finally:
                        parts.put_nowait(None)

                async def pass_on() -> None:
                    # Beside the answering: the engine does not wait for a caller who is slow to read.
                    while (part := await parts.get()) is not None:
                        result = pose_service_pb2.EstimatePoseResult(response=part)
                        await write(message.request_id, result, partial=True)

                result, _ = await together(answer(), pass_on())
                await write(message.request_id, result)
            finally:
                slots.release()

        quota = current_caller().quota
        unreadable: ServiceError | None = None
        try:
            async with aclosing(self._until_draining(requests)) as messages, asyncio.TaskGroup() as items:
                try:
                    async for message in messages:
                        await slots.acquire()
                        refusal: Exception | None = None
                        try:
                            # A stream beyond its rate is read more slowly.
                            await quota.wait(self._default_deadline)
                            quota.charge(_objects(message.request))
                        except CallerLimitError as error:
                            refusal = error
                        with working_for(_work(context, message.request.options.priority, "bulk")):
                            items.create_task(item(message, refusal))
                except ServiceError as error:
                    # A message that cannot be read ends the stream, once the requests before it are answered.
                    unreadable = error
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if unreadable is not None:
            raise unreadable
        if self._draining.is_set():
            raise UnavailableError(f"{SHUTTING_DOWN}; what was read has been answered")

    async def _result(
        self,
        method: str,
        request: pose_service_pb2.EstimatePoseRequest,
        deadline: float | None,
        partial: Partial | None = None,
        room: AnswerRoom | None = None,
    ) -> pose_service_pb2.EstimatePoseResult:
        """Answers one query of several. Its failure is part of the answer."""
        failure: BaseException | None = None
        started = asyncio.get_running_loop().time()
        try:
            with span("query"):
                response = await self._estimation.answer(request, deadline, partial, room)
                return pose_service_pb2.EstimatePoseResult(response=response)
        except asyncio.CancelledError as error:
            failure = error
            raise
        except Exception as error:
            failure = error
            status = status_of(error)
            item_failed(grpc_code(status).name)
            return pose_service_pb2.EstimatePoseResult(error=status)
        finally:
            self._metrics.item_finished(method, outcome_of(failure), current_caller().tenant)
            self._metrics.item_timed(method, asyncio.get_running_loop().time() - started)

    async def _until_draining(
        self, requests: AsyncIterator[pose_service_pb2.StreamEstimatePoseRequest]
    ) -> AsyncGenerator[pose_service_pb2.StreamEstimatePoseRequest, None]:
        """The requests of a stream, until it ends or the server wants to."""
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            while True:
                coming = asyncio.ensure_future(anext(requests))
                try:
                    await asyncio.wait((coming, draining), return_when=asyncio.FIRST_COMPLETED)
                    if not coming.done():
                        return
                    message = coming.result()
                except StopAsyncIteration:
                    return
                finally:
                    coming.cancel()
                yield message
        finally:
            draining.cancel()


PRIORITIES: dict[pose_service_pb2.Priority.ValueType, Priority] = {
    pose_service_pb2.PRIORITY_INTERACTIVE: "interactive",
    pose_service_pb2.PRIORITY_BULK: "bulk",
}


def _work(context: Context, priority: pose_service_pb2.Priority.ValueType, default: Priority) -> Work:
    """Whose turn a request is served in. Batches and streams are read on as they are served, so they are patient."""
    caller = current_caller().token or context.peer()
    return Work(caller, PRIORITIES.get(priority, default), patient=default == "bulk")


def _objects(request: pose_service_pb2.EstimatePoseRequest) -> int:
    """Objects that a request asks for, which quotas count."""
    return max(1, len(request.boxes))
