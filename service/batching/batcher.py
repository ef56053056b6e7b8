"""Merging the work of many callers into batches.

Rows queue per component. While the engine has a free slot nothing waits; while it is busy rows gather, and
the next batch takes as many as fit. When a slot frees, the component latest in the chain goes first, so that
requests under way finish before new ones begin; within a component the oldest row goes first, and takes along
the rows that look like it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from itertools import count, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cape.manifest import Manifest
from service.batching.queues import BatchItem, ComponentQueue
from service.engines.base import BatchObserver, BatchResult, Engine
from service.errors import DeadlineError, EngineError, QueueFullError

logger = logging.getLogger(__name__)

SETTLING_TURNS = 12
"""Turns of the event loop, at most, between the end of a batch and the choice of the next one. A request whose row was
in the batch needs about six to come back with its next step. Chosen at once, the next batch would always be
that of a new request. Once all of them are back, nothing is left to wait for."""

MARGIN = 1.3
"""Factor on the time that a new request is expected to take until its answer. Runs differ by some percent, and under
overload those let in all stand where the estimate just fits. Simulated with runs that vary by 20 %, three times the
capacity left 99 % of it with a factor of 1.15 and all of it with this one, p99 at 2.96 and 2.80 of a full batch's."""

TOO_LATE = "the deadline has passed, or is too close for an answer"

UNKNOWN_RETRY = 1.0
"""Seconds after which to come back to a full queue whose speed has not been measured yet."""


class Batcher:
    """Runs rows of many callers in batches on an engine. Implements `service.engines.base.BatchRunner`."""

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        *,
        max_queue: int = 1024,
        max_batch: int | None = None,
        hang_seconds: float | None = None,
        observer: BatchObserver | None = None,
    ) -> None:
        """Prepares a queue per component.

        Args:
            engine: runs the batches; closed by whoever made it, after `close`.
            manifest: its components and their largest batches.
            max_queue: rows that may wait, over all components.
            max_batch: most crops in a run of an image backbone; None: as many as pay on the engine.
            hang_seconds: time after which a run counts as hanging; None waits for ever.
            observer: is told what happens.
        """
        self._engine = engine
        self._max_queue = max_queue
        self._hang_seconds = hang_seconds
        self._observer = observer or BatchObserver()
        scheduling = {name: manifest.scheduling(name) for name in manifest.components}
        order = sorted(scheduling, key=lambda name: -scheduling[name].stage)
        most = max_batch or engine.useful_batch or sys.maxsize
        self._queues = {
            name: ComponentQueue(
                min(most if _takes_images(manifest, name) else sys.maxsize, manifest.components[name].max_batch_size),
                uneven=scheduling[name].uneven_cost,
            )
            for name in order
        }
        self._entrances = {name for name in order if scheduling[name].entrance}
        paths = [manifest.query_components(system) for system in manifest.systems]
        # Several systems may share a backbone: what follows it is not one component but a set.
        self._followers: dict[str, set[str]] = {}
        for path in paths:
            for first, second in pairwise(path):
                if not scheduling[second].uneven_cost:
                    self._followers.setdefault(first, set()).add(second)
        # Components that finish a request, which is answered then and does not come back.
        self._lasts = {path[-1] for path in paths if path and not scheduling[path[-1]].uneven_cost}
        self._pool = ThreadPoolExecutor(engine.concurrency, thread_name_prefix="engine")
        self._numbers = count()
        self._runs: set[asyncio.Task[None]] = set()
        self._running: dict[asyncio.Task[None], tuple[str, int, float]] = {}
        self._hanging = 0
        self._pending: set[asyncio.Future[BatchResult]] = set()
        self._settling = False
        # A batch belongs to several requests: what it logs must not carry the name of the one that started it.
        self._nobody = Context()
        self._turns_left = 0
        # Rows of finished backbone batches whose requests have not come back with their next step.
        self._returning = 0
        self._closed = False

    @property
    def description(self) -> str:
        """The engine's."""
        return self._engine.description

    @property
    def healthy(self) -> bool:
        """False while an engine run hangs."""
        return not self.hanging

    @property
    def hanging(self) -> bool:
        """Whether an engine run takes longer than it may."""
        return self._hanging > 0

    @property
    def queued(self) -> int:
        """Rows that wait for the engine."""
        return sum(queue.rows for queue in self._queues.values())

    def query_model(self, system: str) -> str | None:
        """None: between two models of one process, features are handed on without being copied."""
        return None

    async def submit(
        self,
        component: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> BatchResult:
        """Runs a component on one batch item. Cancelling the caller takes the row out of the queue.

        Args:
            component: a component of the manifest.
            inputs: arrays by input name, without batch axis; not to be changed until this returns.
            outputs: names of the wanted outputs.
            deadline: event loop time by which the result is needed.

        Raises:
            DeadlineError: the deadline has passed, or will have before the component can have run.
            QueueFullError: too many rows wait.
            EngineError: the engine failed on the row's batch, hangs, or the batcher is closed.
        """
        loop = asyncio.get_running_loop()
        row = BatchItem(
            number=next(self._numbers),
            component=component,
            inputs=inputs,
            outputs=tuple(outputs),
            deadline=deadline,
            submitted=loop.time(),
            future=loop.create_future(),
        )
        self._check_admission(row)
        queue = self._queues[component]
        queue.push(row)
        self._observer.queue_depth(component, queue.rows)
        self._pending.add(row.future)
        row.future.add_done_callback(self._pending.discard)
        if deadline is not None:
            latest_start = deadline - queue.run_time(1, row.submitted)
            row.timer = loop.call_at(latest_start, self._expire, row, deadline)
        if self._returning and component in self._lasts:
            self._returning -= 1
            if not self._returning:
                self._turns_left = 0
        self._dispatch_after(turns=0)
        try:
            return await row.future
        finally:
            if row.timer is not None:
                row.timer.cancel()
            if queue.remove(row):
                self._dropped(row, "cancelled")

    async def close(self) -> None:
        """Refuses new rows and returns once those at hand are served."""
        self._closed = True
        while self._pending:
            await asyncio.wait(self._pending)
        # Waiting for threads would wait for a hanging run.
        self._pool.shutdown(wait=False)

    def _check_admission(self, row: BatchItem) -> None:
        if self._closed:
            raise EngineError(row.component, "the server is shutting down")
        if not self.healthy:
            raise EngineError(row.component, "the engine does not answer")
        if self._is_late(row, row.submitted) or self._would_be_late(row, row.submitted):
            self._observer.item_dropped(row.component, "deadline")
            raise DeadlineError(TOO_LATE)
        if row.component in self._entrances and self.queued >= self._max_queue:
            self._observer.item_dropped(row.component, "full")
            seconds = sum(queue.time_to_empty() for queue in self._queues.values()) / self._engine.concurrency
            raise QueueFullError(seconds or UNKNOWN_RETRY)

    def _is_late(self, row: BatchItem, now: float) -> bool:
        """Whether a row that starts now cannot be done by its deadline."""
        if row.deadline is None:
            return False
        return row.deadline <= now + self._queues[row.component].run_time(1, now)

    def _would_be_late(self, row: BatchItem, now: float) -> bool:
        """Whether a new request stands too far back in the queue to be answered by its deadline.

        Were it let in, it would be served too late, or just in time for the one behind it to be too late: under
        overload a server would work all the time and answer next to nobody. Where nothing runs nobody stands in line.
        """
        if row.deadline is None or row.component not in self._entrances or not self._running:
            return False
        own = self._queues[row.component]
        # Its batch will be as large as batches are, for others come after it.
        ahead, place = divmod(own.rows, own.full_batch)
        rows = ahead * own.full_batch + max(place + 1, min(own.usual_batch, own.full_batch))
        seconds = own.serving_time(rows, now)
        under_way = sum(size for component, size, _ in self._running.values() if component == row.component)
        seconds += max(
            (queue.serving_time(rows + under_way + queue.rows, now) for queue in self._following(row.component)),
            default=0.0,
        )
        for component, size, started in self._running.values():
            seconds += max(0.0, started + self._queues[component].run_time(size, now) - now)
        return now + MARGIN * seconds / self._engine.concurrency > row.deadline

    def _cannot_finish(self, row: BatchItem, batch: int, now: float) -> bool:
        """Whether a row whose batch starts now, with so many rows, will not be answered by its deadline."""
        if row.deadline is None:
            return False
        seconds = self._queues[row.component].run_time(batch, now)
        seconds += max((queue.run_time(batch, now) for queue in self._following(row.component)), default=0.0)
        return row.deadline <= now + seconds

    def _following(self, component: str) -> list[ComponentQueue]:
        """Queues of the components that a query passes next, one per system that shares `component`."""
        return [self._queues[name] for name in self._followers.get(component, ())]

    def _expire(self, row: BatchItem, deadline: float) -> None:
        """Fails a row whose time is up: a waiting one a run's length before its deadline, others at it."""
        loop = asyncio.get_running_loop()
        if self._queues[row.component].remove(row):
            self._dropped(row, "deadline")
        elif loop.time() < deadline:
            row.timer = loop.call_at(deadline, self._expire, row, deadline)
            return
        row.fail(DeadlineError(TOO_LATE))

    def _dropped(self, row: BatchItem, reason: str) -> None:
        self._observer.item_dropped(row.component, reason)
        self._observer.queue_depth(row.component, self._queues[row.component].rows)

    def _dispatch_after(self, turns: int) -> None:
        """Starts what can start, once this turn of the event loop and `turns` more are over."""
        self._turns_left = max(self._turns_left, turns)
        if not self._settling:
            self._settling = True
            asyncio.get_running_loop().call_soon(self._settle, context=self._nobody)

    def _settle(self) -> None:
        self._settling = False
        if self._turns_left:
            self._turns_left -= 1
            self._dispatch_after(0)
            return
        self._returning = 0
        while len(self._runs) < self._engine.concurrency and (batch := self._next_batch()):
            loop = asyncio.get_running_loop()
            run = loop.create_task(self._run(batch))
            self._runs.add(run)
            self._running[run] = (batch[0].component, len(batch), loop.time())
            run.add_done_callback(self._slot_freed)

    def _slot_freed(self, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        component, size, _ = self._running.pop(run)
        if component in self._followers:
            self._returning += size
        self._dispatch_after(0 if component in self._lasts else SETTLING_TURNS)

    def _next_batch(self) -> list[BatchItem]:
        """The rows that go next; none if nothing waits."""
        now = asyncio.get_running_loop().time()
        for component, queue in self._queues.items():
            while queue.rows:
                batch: list[BatchItem] = []
                taken = queue.take()
                for row in taken:
                    if self._is_late(row, now) or self._cannot_finish(row, len(taken), now):
                        self._dropped(row, "deadline")
                        row.fail(DeadlineError(TOO_LATE))
                    elif row.future.done():
                        self._dropped(row, "cancelled")
                    else:
                        batch.append(row)
                self._observer.queue_depth(component, queue.rows)
                if batch:
                    return batch
        return []

    async def _run(self, batch: list[BatchItem]) -> None:
        """Runs one batch and hands out what comes of it."""
        loop = asyncio.get_running_loop()
        component = batch[0].component
        started = loop.time()
        waits = [started - row.submitted for row in batch]
        self._observer.batch_started(component, waits)
        call = loop.run_in_executor(self._pool, self._compute, batch)
        done, _ = await asyncio.wait((call,), timeout=self._hang_seconds)
        if not done:
            await self._sit_out(call, batch)
        elif error := call.exception():
            if not isinstance(error, EngineError):
                logger.error("%s: unexpected error in a batch", component, exc_info=error)
                error = EngineError(component, f"{type(error).__name__}: {error}")
            self._observer.run_failed(component)
            for row in batch:
                row.fail(error)
        else:
            now = loop.time()
            self._queues[component].measured(len(batch), now - started, now)
            self._observer.run_finished(component, now - started)
            results = call.result()
            for index, (row, waited) in enumerate(zip(batch, waits, strict=True)):
                if not row.future.done():
                    outputs = {name: array[index] for name, array in results.items()}
                    row.future.set_result(BatchResult(outputs, waited, now - started))

    def _compute(self, batch: list[BatchItem]) -> dict[str, npt.NDArray[Any]]:
        """Stacks rows and runs them; in a thread of the pool."""
        first = batch[0]
        if len(batch) == 1:
            inputs = {name: array[np.newaxis] for name, array in first.inputs.items()}
        else:
            inputs = {name: np.stack([row.inputs[name] for row in batch]) for name in first.inputs}
        outputs = self._engine.run(first.component, inputs, first.outputs)
        for name in first.outputs:
            if name not in outputs or len(outputs[name]) != len(batch):
                raise EngineError(first.component, f"no {name!r} for each of {len(batch)} rows")
        return outputs

    async def _sit_out(self, call: asyncio.Future[dict[str, npt.NDArray[Any]]], batch: list[BatchItem]) -> None:
        """Fails everybody while a run hangs, and returns should it ever end: a thread cannot be stopped."""
        component = batch[0].component
        self._hanging += 1
        self._observer.run_failed(component)
        self._observer.engine_healthy(False)
        logger.error("%s: a batch of %d has run for over %s s", component, len(batch), self._hang_seconds)
        error = EngineError(component, f"no answer after {self._hang_seconds} s")
        for row in batch:
            row.fail(error)
        for queue in self._queues.values():
            for row in queue:
                queue.remove(row)
                self._dropped(row, "engine")
                row.fail(error)
        await asyncio.wait((call,))
        call.exception()
        self._hanging -= 1
        self._observer.engine_healthy(self.healthy)
        logger.warning("%s: the engine answers again", component)


def _takes_images(manifest: Manifest, component: str) -> bool:
    """Whether batch items of a component are crops."""
    return any(tensor.name == "image" and tensor.dtype == "uint8" for tensor in manifest.components[component].inputs)
