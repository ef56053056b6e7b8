"""The blocking client. `cape.client.asynchronous` has the asyncio one."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Self, TypeVar, Unpack

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

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class Client:
    """A connection to a server. Thread-safe; as a context manager it closes the connection on exit.

    Every method takes `timeout`, `token` and `attempts`, which override the client's for one call; see `CallOptions`.
    """

    def __init__(self, target: str, options: ConnectionOptions | None = None, **changes: Unpack[ClientOptions]) -> None:
        """Sets up the connection; it is opened by the first call.

        Args:
            target: "host:port".
            options: TLS, token, timeout, retries.
            **changes: single options, which take precedence: `Client("localhost:50051", timeout=5)`.

        Raises:
            OSError: a certificate or key cannot be read.
            ValueError: an option is out of range.
        """
        self._target = target
        self._options = client_options(options, changes)
        self._closed = False
        credentials, arguments = self._options.credentials, self._options.channel_options
        self._channel = (
            grpc.insecure_channel(target, arguments)
            if credentials is None
            else grpc.secure_channel(target, credentials, arguments)
        )
        self._pose = PoseServiceStub(self._channel)
        self._support = SupportServiceStub(self._channel)
        self._model = ModelServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Running calls fail."""
        self._closed = True
        self._channel.close()

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Waits until the server's health check reports SERVING.

        Raises:
            UnavailableError: it is not ready within `timeout` seconds.
        """
        deadline = Deadline(timeout)
        reason = "it does not answer"
        while (remaining := deadline.remaining or 0.0) > 0:
            try:
                answer = self._health.Check(
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
            time.sleep(READY_POLL)
        raise not_ready(self._target, timeout, reason)

    def create_support(self, definition: SupportDefinition, **call: Unpack[CallOptions]) -> RegisteredSupport:
        """Registers a support. Identical content gets the same name, so creating it twice is harmless."""
        request = support_service_pb2.CreateSupportRequest(support=messages.support_message(definition))
        response = self._call(self._support.CreateSupport, request, call)
        return messages.registered_support(response.support, already_existed=response.already_existed)

    def get_support(self, name: str, *, images: bool = True, **call: Unpack[CallOptions]) -> RegisteredSupport:
        """Returns a registered support, with or without the pixels of its example images."""
        response = self._call(self._support.GetSupport, messages.get_support_request(name, images), call)
        return messages.registered_support(response.support)

    def list_supports(self, page_size: int = 0, **call: Unpack[CallOptions]) -> Iterator[RegisteredSupport]:
        """Iterates over all supports without their pixels, oldest first. Fetches pages on demand."""
        request = support_service_pb2.ListSupportsRequest(page_size=page_size)
        while True:
            response = self._call(self._support.ListSupports, request, call)
            yield from map(messages.registered_support, response.supports)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def delete_support(self, name: str, **call: Unpack[CallOptions]) -> None:
        """Removes a support."""
        self._call(self._support.DeleteSupport, support_service_pb2.DeleteSupportRequest(name=name), call)

    def estimate(
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
        return messages.pose_estimate(self._call(self._pose.EstimatePose, messages.estimate_request(query), call))

    def estimate_batch(self, queries: Iterable[Query], **call: Unpack[CallOptions]) -> list[PoseEstimate | CapeError]:
        """Sends at most 256 queries in one message. Each succeeds or fails independently."""
        response = self._call(self._pose.BatchEstimatePose, messages.batch_request(queries), call)
        return [messages.pose_result(result) for result in response.results]

    def estimate_stream(
        self, queries: Iterable[Query], **call: Unpack[CallOptions]
    ) -> Generator[tuple[int, PoseEstimate | CapeError]]:
        """Streams queries and yields answers as they are ready, for video and bulk work. Memory stays bounded.

        Args:
            queries: read in another thread, as fast as the server accepts them. An exception that it raises is
                raised here, after the queries already sent have been answered.

        Yields:
            Position of a query and its answer or error, in the order of completion. Queries with `partial_answers`
            yield partial answers first.
        """
        options = self._options.for_call(call)
        failures: list[Exception] = []

        def requests() -> Iterator[pose_service_pb2.StreamEstimatePoseRequest]:
            try:
                for index, query in enumerate(queries):
                    yield messages.stream_request(index, query)
            except Exception as error:  # raised below, because gRPC would only log it
                failures.append(error)

        stream = self._pose.StreamEstimatePose(requests(), timeout=call.get("timeout"), metadata=options.metadata)
        try:
            for response in stream:
                yield messages.stream_answer(response)
        except grpc.RpcError as error:
            raise error_from_call(error) from None
        finally:
            stream.cancel()
        if failures:
            raise failures[0]

    def models(self, **call: Unpack[CallOptions]) -> list[ModelInfo]:
        """Returns the models that the server serves."""
        request = model_service_pb2.ListModelsRequest()
        found: list[ModelInfo] = []
        while True:
            response = self._call(self._model.ListModels, request, call)
            found += map(messages.model_info, response.models)
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    def performance(self, **call: Unpack[CallOptions]) -> list[ModelPerformance]:
        """Returns live latency and throughput per model, over the last minutes."""
        request = model_service_pb2.GetPerformanceReportRequest()
        response = self._call(self._model.GetPerformanceReport, request, call)
        return [messages.model_performance(model) for model in response.models]

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, call: CallOptions
    ) -> _Response:
        options = self._options.for_call(call)
        deadline = Deadline(options.timeout)
        attempt = 1
        while True:
            try:
                return method(request, timeout=deadline.remaining, metadata=options.metadata)
            except grpc.RpcError as error:
                failure = error_from_call(error)
            delay = options.retry_delay(failure, attempt, deadline.remaining)
            if delay is not None:
                time.sleep(delay)
            if delay is None or self._closed:
                raise failure
            attempt += 1
