"""Runs an exported repository on a Triton server, near or far.

Rows are sent one by one, at once: Triton's dynamic batcher merges those of all callers of all replicas. Their
deadlines travel with them, and a caller who leaves takes its row along. While Triton is away, or serves anything
but what the manifest describes, rows are refused and the server says NOT_SERVING; that ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cape.manifest import QUERY_SUFFIX, Manifest
from service.engines.base import BatchObserver, BatchResult
from service.engines.triton_messages import VERSION, request_of, row_of, triton_models
from service.errors import TOO_LATE, UNKNOWN_RETRY, DeadlineError, EngineError, QueueFullError
from service.telemetry.spans import trace_headers

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often Triton is asked whether it still serves what the manifest describes."""

POLL_TIMEOUT = 5.0
"""Seconds after which a server that does not say so counts as away."""

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC's own pauses between attempts to connect grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

QUEUE_FULL, QUEUE_TIMEOUT = "Exceeds maximum queue size", "Request timeout expired"
"""What Triton's queue policy says when it turns a request away; both come as UNAVAILABLE."""

NOT_ASKED, LOST = "not asked yet", "the connection is lost"


class TritonEngine:
    """Sends rows to a Triton server. Implements `service.engines.base.BatchRunner`; for use within one event loop."""

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        *,
        max_queue: int = 1024,
        hang_seconds: float | None = None,
        observer: BatchObserver | None = None,
    ) -> None:
        """Prepares a connection; `open` makes it.

        Args:
            url: 'host:port' of Triton's gRPC.
            manifest: what Triton must serve.
            max_queue: rows that may be unanswered.
            hang_seconds: time after which an unanswered row counts as failed; None waits for ever.
            observer: is told what happens; batches are Triton's own affair, see its metrics.
        """
        self._url = url
        self._models = triton_models(manifest)
        self._max_queue = max_queue
        self._hang_seconds = hang_seconds
        self._observer = observer or BatchObserver()
        self._waiting = dict.fromkeys(self._models, 0)
        self._problem: str | None = NOT_ASKED
        self._connections = 0
        self._connection_changed = asyncio.Event()
        self._watchers: list[asyncio.Task[None]] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @property
    def description(self) -> str:
        """'triton:' and where it is."""
        return f"triton:{self._url}"

    @property
    def healthy(self) -> bool:
        """Whether Triton, when last asked, served every model that the manifest describes."""
        return self._problem is None

    @property
    def hanging(self) -> bool:
        """False: what Triton does not answer holds nothing up here."""
        return False

    @property
    def queued(self) -> int:
        """Rows that Triton has not answered."""
        return sum(self._waiting.values())

    def query_model(self, system: str) -> str:
        """The system's ensemble of backbone and decoder."""
        return f"{system}{QUERY_SUFFIX}"

    async def open(self) -> None:
        """Connects, and asks Triton what it serves. Does not fail where Triton is away: that may end."""
        self._channel = grpc.aio.insecure_channel(self._url, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        await self._ask()
        self._watchers = [asyncio.create_task(watch()) for watch in (self._watch_connection, self._watch_models)]

    async def submit(
        self,
        component: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> BatchResult:
        """Runs a model on one row; see `service.engines.base.BatchRunner.submit`.

        Returns:
            Its time in Triton's queue counts as part of the run: Triton does not tell them apart in an answer.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._check_admission(component, started, deadline)
        limits = [seconds for seconds in (deadline and deadline - started, self._hang_seconds) if seconds is not None]
        timeout = min(limits, default=None)
        model = self._models[component]
        request = request_of(component, model, inputs, outputs)
        self._count(component, 1)
        try:
            answer = await self._stub.ModelInfer(request, timeout=timeout, metadata=trace_headers())
            results = row_of(component, model, inputs, outputs, answer)
        except grpc.aio.AioRpcError as error:
            raise self._translated(component, error, hung=timeout != (deadline and deadline - started)) from None
        except EngineError:
            self._observer.run_failed(component)
            raise
        except asyncio.CancelledError:
            self._observer.item_dropped(component, "cancelled")
            raise
        finally:
            self._count(component, -1)
        seconds = loop.time() - started
        self._observer.run_finished(component, seconds)
        return BatchResult(results, waited=0.0, ran=seconds)

    async def close(self) -> None:
        """Refuses new rows, and disconnects once those at hand are answered."""
        self._closed = True
        await self._idle.wait()
        for task in self._watchers:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._channel.close()

    def _check_admission(self, component: str, now: float, deadline: float | None) -> None:
        if self._closed:
            raise EngineError(component, "the server is shutting down")
        if component not in self._models:
            raise EngineError(component, "no such component")
        if deadline is not None and deadline <= now:
            self._observer.item_dropped(component, "deadline")
            raise DeadlineError(TOO_LATE)
        if self._problem is not None:
            self._observer.item_dropped(component, "engine")
            raise EngineError(component, f"Triton at {self._url}: {self._problem}")
        if self.queued >= self._max_queue:
            self._observer.item_dropped(component, "full")
            raise QueueFullError(UNKNOWN_RETRY)

    def _count(self, component: str, change: int) -> None:
        self._waiting[component] += change
        self._observer.queue_depth(component, self._waiting[component])
        if self.queued:
            self._idle.clear()
        else:
            self._idle.set()

    def _translated(self, component: str, error: grpc.aio.AioRpcError, *, hung: bool) -> Exception:
        """What a status of Triton's means for the caller; the observer hears of it.

        Args:
            component: what was to run.
            error: from the call.
            hung: a call whose time is up has used up the time of a run, not the caller's.
        """
        code, text = error.code(), error.details() or ""
        late = code is grpc.StatusCode.DEADLINE_EXCEEDED
        if QUEUE_TIMEOUT in text or (late and not hung):
            self._observer.item_dropped(component, "deadline")
            return DeadlineError(TOO_LATE)
        if QUEUE_FULL in text:
            self._observer.item_dropped(component, "full")
            return QueueFullError(UNKNOWN_RETRY)
        self._observer.run_failed(component)
        return EngineError(component, f"no answer after {self._hang_seconds} s" if late else f"{code.name}: {text}")

    async def _watch_connection(self) -> None:
        """Refuses rows from the moment the connection breaks: behind the next one may be another server."""
        while True:
            state = self._channel.get_state(try_to_connect=True)
            if state is not grpc.ChannelConnectivity.READY:
                self._connections += 1
                self._set_problem(self._problem or LOST)
            self._connection_changed.set()
            await self._channel.wait_for_state_change(state)

    async def _watch_models(self) -> None:
        """Asks again and again, and at once when the connection has changed."""
        while True:
            self._connection_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._connection_changed.wait()
            await self._ask()

    async def _ask(self) -> None:
        """Finds out whether Triton serves what the manifest describes."""
        asked = self._connections
        problems = await asyncio.gather(*map(self._problem_of, self._models))
        # Answers that came over a connection which has broken since say nothing of the server behind the next one.
        lost = LOST if asked != self._connections else None
        self._set_problem(next((problem for problem in problems if problem), lost))

    async def _problem_of(self, name: str) -> str | None:
        """What is wrong with a model; None where nothing is."""
        request = service_pb2.ModelConfigRequest(name=name, version=VERSION)
        try:
            # Triton has no configuration for models that are not ready.
            answer = await self._stub.ModelConfig(request, timeout=POLL_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return f"{name}: {error.details() or error.code().name}"
        key, expected = self._models[name].identity
        if answer.config.parameters[key].string_value != expected:
            return f"{name} is not the one that the manifest describes; it serves another export"
        return None

    def _set_problem(self, problem: str | None) -> None:
        if problem == self._problem:
            return
        if problem is None:
            logger.info("Triton at %s serves every model", self._url)
        else:
            logger.error("Triton at %s: %s", self._url, problem)
        self._problem = problem
        self._observer.engine_healthy(problem is None)
