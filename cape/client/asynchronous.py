"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cape.client import messages
from cape.client.answers import ModelInfo, ModelPerformance, PoseEstimate, Query
from cape.client.connection import (
    READY_POLL,
    CallOptions,
    ClientOptions,
    ConnectionOptions,
    Deadline,
    client_options,
    not_ready,
    reason_to_wait,
)
from cape.client.errors import CapeError, error_from_call
from cape.support import Box, ImageSource, RegisteredSupport, SupportDefinition
from cape.v1 import model_service_pb2, pose_service_pb2, support_service_pb2
from cape.v1.model_service_pb2_grpc import ModelServiceStub
from cape.v1.pose_service_pb2_grpc import PoseServiceStub
from cape.v1.support_service_pb2_grpc import SupportServiceStub

if TYPE_CHECKING:
    # The generated code has one class for both kinds of stub; only its types tell them apart.
    from cape.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from cape.v1.pose_service_pb2_grpc import PoseServiceAsyncStub
    from cape.v1.support_service_pb2_grpc import SupportServiceAsyncStub

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class AsyncClient:
    """`Client` for asyncio: the same methods as coroutines and asynchronous iterators. Bound to one event loop."""

    def __init__(self, target: str, options: ConnectionOptions | None = None, **changes: Unpack[ClientOptions]) -> None:
        """Takes the arguments of `Client`. Must be called while the event loop runs."""
        self._target = target
        self._options = client_options(options, changes)
        self._closed = False
        credentials, arguments = self._options.credentials, self._options.channel_options
        self._channel = (
            grpc.aio.insecure_channel(target, arguments)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, arguments)
        )
        self._pose: PoseServiceAsyncStub = PoseServiceStub(self._channel)
        self._support: SupportServiceAsyncStub = SupportServiceStub(self._channel)
        self._model: ModelServiceAsyncStub = ModelServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Running calls fail."""
        self._closed = True
        await self._channel.close()

    async def wait_ready(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109, as in Client
        """Waits until the server's health check reports SERVING.

        Raises:
            UnavailableError: it is not ready within `timeout` seconds.
        """
        deadline = Deadline(timeout)
        reason = "it does not answer"
        while (remaining := deadline.remaining or 0.0) > 0:
            try:
                answer = await self._health.Check(
                    health_pb2.HealthCheckRequest(),
                    timeout=remaining,
                    metadata=self._options.metadata,
                    wait_for_ready=True,
                )
            except grpc.RpcError as error:
                reason = reason_to_wait(error_from_call(error), reason)
            else:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                reason = "it is starting or shutting down"
            await asyncio.sleep(READY_POLL)
        raise not_ready(self._target, timeout, reason)

    async def create_support(self, definition: SupportDefinition, **call: Unpack[CallOptions]) -> RegisteredSupport:
        """Registers a support. Identical content gets the same name, so creating it twice is harmless."""
        support = await asyncio.to_thread(messages.support_message, definition)
        request = support_service_pb2.CreateSupportRequest(support=support)
        response = await self._call(self._support.CreateSupport, request, call)
        return messages.registered_support(response.support, already_existed=response.already_existed)

    async def get_support(self, name: str, *, images: bool = True, **call: Unpack[CallOptions]) -> RegisteredSupport:
        """Returns a registered support, with or without the pixels of its example images."""
        response = await self._call(self._support.GetSupport, messages.get_support_request(name, images), call)
        return messages.registered_support(response.support)

    async def list_supports(self, page_size: int = 0, **call: Unpack[CallOptions]) -> AsyncIterator[RegisteredSupport]:
        """Iterates over all supports without their pixels, oldest first. Fetches pages on demand."""
        request = support_service_pb2.ListSupportsRequest(page_size=page_size)
        while True:
            response = await self._call(self._support.ListSupports, request, call)
            for support in response.supports:
                yield messages.registered_support(support)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def delete_support(self, name: str, **call: Unpack[CallOptions]) -> None:
        """Removes a support."""
        await self._call(self._support.DeleteSupport, support_service_pb2.DeleteSupportRequest(name=name), call)

    async def estimate(
        self,
        image: ImageSource,
        support: str | SupportDefinition,
        *,
        boxes: Sequence[Box] | None = None,
        model: str = "",
        similarity_maps: bool = False,
        proposals: bool = False,
        normalized: bool = False,
        find_box: bool = False,
        **call: Unpack[CallOptions],
    ) -> PoseEstimate:
        """Finds the keypoints of a support in an image; the arguments are those of `Query`."""
        query = Query(image, support, boxes, model, similarity_maps, proposals, normalized, find_box=find_box)
        request = await asyncio.to_thread(messages.estimate_request, query)
        return messages.pose_estimate(await self._call(self._pose.EstimatePose, request, call))

    async def estimate_batch(
        self, queries: Iterable[Query], **call: Unpack[CallOptions]
    ) -> list[PoseEstimate | CapeError]:
        """Sends at most 256 queries in one message. Each succeeds or fails independently."""
        request = await asyncio.to_thread(messages.batch_request, queries)
        response = await self._call(self._pose.BatchEstimatePose, request, call)
        return [messages.pose_result(result) for result in response.results]

    async def estimate_stream(
        self, queries: AsyncIterable[Query] | Iterable[Query], **call: Unpack[CallOptions]
    ) -> AsyncGenerator[tuple[int, PoseEstimate | CapeError]]:
        """Streams queries and yields answers as they are ready, for video and bulk work. Memory stays bounded.

        Args:
            queries: read as fast as the server accepts them. An exception that it raises is raised here, after the
                queries already sent have been answered.

        Yields:
            Position of a query and its answer or error, in the order of completion. Queries with `partial_answers`
            yield partial answers first.
        """
        options = self._options.for_call(call)
        failures: list[Exception] = []

        async def requests() -> AsyncIterator[pose_service_pb2.StreamEstimatePoseRequest]:
            index = 0
            try:
                async for query in _asynchronous(queries):
                    yield await asyncio.to_thread(messages.stream_request, index, query)
                    index += 1
            except Exception as error:  # raised below, because gRPC would only log it
                failures.append(error)

        stream = self._pose.StreamEstimatePose(requests(), timeout=call.get("timeout"), metadata=options.metadata)
        try:
            async for response in stream:
                yield messages.stream_answer(response)
        except grpc.RpcError as error:
            raise error_from_call(error) from None
        finally:
            stream.cancel()
        if failures:
            raise failures[0]

    async def models(self, **call: Unpack[CallOptions]) -> list[ModelInfo]:
        """Returns the models that the server serves."""
        request = model_service_pb2.ListModelsRequest()
        found: list[ModelInfo] = []
        while True:
            response = await self._call(self._model.ListModels, request, call)
            found += map(messages.model_info, response.models)
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    async def performance(self, **call: Unpack[CallOptions]) -> list[ModelPerformance]:
        """Returns live latency and throughput per model, over the last minutes."""
        request = model_service_pb2.GetPerformanceReportRequest()
        response = await self._call(self._model.GetPerformanceReport, request, call)
        return [messages.model_performance(model) for model in response.models]

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, call: CallOptions
    ) -> _Response:
        options = self._options.for_call(call)
        deadline = Deadline(options.timeout)
        attempt = 1
        while True:
            try:
                return await method(request, timeout=deadline.remaining, metadata=options.metadata)
            except grpc.RpcError as error:
                failure = error_from_call(error)
            delay = options.retry_delay(failure, attempt, deadline.remaining)
            if delay is not None:
                await asyncio.sleep(delay)
            if delay is None or self._closed:
                raise failure
            attempt += 1


async def _asynchronous(queries: AsyncIterable[Query] | Iterable[Query]) -> AsyncIterator[Query]:
    if isinstance(queries, AsyncIterable):
        async for query in queries:
            yield query
    else:
        for query in queries:
            yield query
