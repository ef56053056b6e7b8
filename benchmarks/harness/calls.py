"""EstimatePose calls with minimal client cost, so that the server is what is measured.

Requests are serialised once. Nothing is retried: an error is a result.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from benchmarks.harness.arrivals import OK, Ask
from benchmarks.harness.workloads import Workload
from cape.client import Client
from cape.client.answers import Query
from cape.client.messages import estimate_request
from cape.support import SupportDefinition
from cape.v1 import pose_service_pb2

METHOD = "/cape.v1.PoseService/EstimatePose"

OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One answered call.

    Attributes:
        seconds: round trip, as the caller sees it.
        response: the answer.
    """

    seconds: float
    response: pose_service_pb2.EstimatePoseResponse


@asynccontextmanager
async def in_turn(requests: Sequence[tuple[str, bytes]]) -> AsyncIterator[Ask]:
    """Sends serialised requests to several servers in turn.

    Args:
        requests: request by target.
    """
    async with AsyncExitStack() as stack:
        calls: list[tuple[Any, bytes]] = []
        for target, request in requests:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, OPTIONS))
            calls.append((channel.unary_unary(METHOD), request))
        turns = itertools.cycle(calls)

        async def ask(number: int) -> str:
            call, request = next(turns)
            try:
                await call(request, timeout=60.0)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return OK

        yield ask


class Caller:
    """Calls a server one request after another; a context manager."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, OPTIONS)
        self._call: Any = self._channel.unary_unary(METHOD)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self, request: bytes, timeout: float = 60.0) -> Measured:
        """Sends a serialised request and waits for the answer.

        Raises:
            grpc.RpcError: it failed.
        """
        started = time.perf_counter()
        answer = self._call(request, timeout=timeout)
        seconds = time.perf_counter() - started
        return Measured(seconds, pose_service_pb2.EstimatePoseResponse.FromString(answer))


def warm_request(work: Workload, support: str, system: str = "") -> bytes:
    """Serialises a query of a registered support."""
    return _serialised(work, support, system)


def cold_request(work: Workload, number: int, system: str = "") -> bytes:
    """Serialises a query with an inline support that is new for every `number`."""
    return _serialised(work, work.unseen(number), system)


def register(target: str, supports: Sequence[SupportDefinition]) -> list[str]:
    """Registers supports; returns their names."""
    with Client(target) as client:
        return [client.create_support(support).name for support in supports]


def _serialised(work: Workload, support: str | SupportDefinition, system: str) -> bytes:
    model = f"models/{system}" if system else ""
    return estimate_request(Query(work.image, support, work.boxes, model)).SerializeToString()
