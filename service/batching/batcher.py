"""Merges the work of many callers into batches.

While the engine has a free slot, nothing waits. While it is busy, items queue, and the next batch takes as many as fit.
Which one goes next is decided by `service.batching.scheduler`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from itertools import count, pairwise
from typing import Any

import numpy.typing as npt

from cape.manifest import Manifest
from service.batching.queues import BatchItem, ComponentQueue
from service.batching.runs import run_batch, takes_images
from service.batching.scheduler import FairQueue, current_work
from service.engines.base import BatchObserver, BatchResult, Engine, query_models
from service.errors import TOO_LATE, UNKNOWN_RETRY, DeadlineError, EngineError, QueueFullError

logger = logging.getLogger(__name__)

HOLD = 0.1
"""Longest pause between two batches as a share of the first one's run time. Requests whose items have just run come
back with their next step, and shall share the next batch. The pause ends as soon as all of them are back."""

LEAST_HOLD = 0.005
"""Seconds of that pause at least where a query's next step follows: it comes, so the time is hardly ever used up."""

MARGIN = 1.3
"""Factor on the estimated time until the answer of a new request. Run times vary by some percent, and under overload
every admitted request is one whose estimate just fits. Simulated with run times that vary by 20 %, three times the
capacity left 99 % of the throughput with a factor of 1.15 and all of it with 1.3, p99 at 2.96 and 2.80 full batches."""


class Batcher:
    """Runs batch items of many callers in batches on an engine. Implements `service.engines.base.BatchRunner`."""

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
            engine: runs the batches. Its owner closes it, after `close`.
            manifest: its components and their largest batches.
            max_queue: most items of unary requests that wait, over all components.
            max_batch: most crops in a run of an image backbone; None: as many as pay on the engine.
            hang_seconds: time after which a run counts as hanging; None waits for ever.
            observer: receives queue and batch events.
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
                min(most if takes_images(manifest, name) else sys.maxsize, manifest.components[name].max_batch_size),
                uneven=scheduling[name].uneven_cost,
            )
            for name in order
        }
        # Models that run backbone and decoder at once: a query's first and last step.
        self._queries = query_models(engine, manifest)
        for system, model in self._queries.items():
            largest = min(manifest.components[part].max_batch_size for part in manifest.query_components(system))
            self._queues[model] = ComponentQueue(min(max_batch or sys.maxsize, largest))
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
        self._entrances.update(self._queries.values())
        self._lasts.update(self._queries.values())
        self._pool = ThreadPoolExecutor(engine.concurrency, thread_name_prefix="engine")
        self._compute = partial(run_batch, engine)
        self._numbers = count()
        self._runs: set[asyncio.Task[None]] = set()
        self._running: dict[asyncio.Task[None], tuple[str, int, float]] = {}
        self._hanging = 0
        self._pending: set[asyncio.Future[BatchResult]] = set()
        continuations = [name for name in order if not (scheduling[name].entrance or scheduling[name].uneven_cost)]
        self._fair = FairQueue(self._queues, frozenset(continuations))
        self._repeated = {name for name in order if scheduling[name].uneven_cost}
        # Items of unary requests that wait. Patient requests are held back where they are read.
        self._impatient = 0
        self._dispatching: asyncio.Handle | None = None
        # A batch belongs to several requests: its log lines must not carry the id of the one that started it.
        self._no_request = Context()
        # Items of the last batch whose requests have not come back with their next step, and until when to wait.
        self._returning = 0
        self._hold: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def description(self) -> str:
        """Description of the engine."""
        return self._engine.description

    @property
    def healthy(self) -> bool:
        """False while an engine run hangs."""
        return not self.hanging

    @property
    def hanging(self) -> bool:
        """Whether an engine run exceeds its time limit."""
        return self._hanging > 0

    @property
    def queued(self) -> int:
        """Number of items that wait for the engine."""
        return sum(queue.items for queue in self._queues.values())

    def query_model(self, system: str) -> str | None:
        """See `service.engines.base.RowRunner.query_model`."""
        return self._queries.get(system)

    async def submit(
        self,
        component: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> BatchResult:
        """Runs a component on one batch item. Cancelling the caller takes the item out of the queue.

        Args:
            component: a component of the manifest.
            inputs: arrays by input name, without batch axis. Do not change them until this returns.
            outputs: names of the outputs to return.
            deadline: event loop time by which the result is needed.

        Raises:
            DeadlineError: the deadline has passed, or is too close even for an idle engine.
            QueueFullError: too many items wait, or the deadline cannot be met because others are ahead.
            EngineError: the engine failed on the item's batch or hangs, or the batcher is closed.
        """
        loop = asyncio.get_running_loop()
        item = BatchItem(
            number=next(self._numbers),
            work=current_work(),
            component=component,
            inputs=inputs,
            outputs=tuple(outputs),
            deadline=deadline,
            submitted=loop.time(),
            future=loop.create_future(),
        )
        self._check_admission(item)
        queue = self._queues[component]
        self._fair.push(item)
        self._impatient += not item.work.patient
        self._observer.queue_depth(component, queue.items)
        self._pending.add(item.future)
        item.future.add_done_callback(self._pending.discard)
        if deadline is not None:
            latest_start = deadline - queue.run_time(1, item.submitted)
            item.timer = loop.call_at(latest_start, self._expire, item, deadline)
        if self._returning and component not in self._entrances:
            self._returning -= 1
        self._dispatch_soon()
        try:
            return await item.future
        finally:
            if item.timer is not None:
                item.timer.cancel()
            if self._remove(item):
                self._dropped(item, "cancelled")

    async def close(self) -> None:
        """Refuses new items and returns once the accepted ones are served."""
        self._closed = True
        while self._pending:
            await asyncio.wait(self._pending)
        # Waiting for threads would wait for a hanging run.
        self._pool.shutdown(wait=False)

    def _remove(self, item: BatchItem) -> bool:
        removed = self._fair.remove(item)
        self._impatient -= removed and not item.work.patient
        return removed

    def _check_admission(self, item: BatchItem) -> None:
        if self._closed:
            raise EngineError(item.component, "the server is shutting down")
        if not self.healthy:
            raise EngineError(item.component, "the engine does not answer")
        now = item.submitted
        if item.deadline is not None and item.deadline <= now + self._queues[item.component].run_time(1, now):
            self._observer.item_dropped(item.component, "deadline")
            raise DeadlineError(TOO_LATE)
        if item.component not in self._entrances:
            return
        if item.deadline is not None and (missing := self._seconds_missing(item, item.deadline)) > 0:
            self._observer.item_dropped(item.component, "deadline")
            raise QueueFullError(missing)
        if self._impatient >= self._max_queue and not item.work.patient:
            self._observer.item_dropped(item.component, "full")
            seconds = sum(queue.time_to_empty() for queue in self._queues.values()) / self._engine.concurrency
            raise QueueFullError(seconds or UNKNOWN_RETRY)

    def _seconds_missing(self, item: BatchItem, deadline: float) -> float:
        """Seconds by which a new request would miss its deadline, given what is served before it; at most 0 if it fits.

        Admitted regardless, it would be late, or just in time for the one behind it to be late: under overload a server
        would work all the time and answer hardly anyone in time. While nothing runs, everything is admitted.
        """
        if not self._running:
            return 0.0
        now = item.submitted
        own = self._queues[item.component]
        same, seconds = self._fair.ahead(item)
        # Its batch will be as large as batches are, because others come after it.
        full, position = divmod(round(same), own.full_batch)
        items = full * own.full_batch + max(position + 1, min(own.usual_batch, own.full_batch))
        seconds += own.serving_time(items, now)
        under_way = sum(size for component, size, _ in self._running.values() if component == item.component)
        seconds += max(
            (queue.serving_time(items + under_way + queue.items, now) for queue in self._following(item.component)),
            default=0.0,
        )
        for component, size, started in self._running.values():
            seconds += max(0.0, started + self._queues[component].run_time(size, now) - now)
        return now + MARGIN * seconds / self._engine.concurrency - deadline

    def _cannot_finish(self, item: BatchItem, batch: int, now: float) -> bool:
        """Whether an item misses its deadline if its batch of `batch` items starts now."""
        if item.deadline is None:
            return False
        seconds = self._queues[item.component].run_time(batch, now)
        seconds += max((queue.run_time(batch, now) for queue in self._following(item.component)), default=0.0)
        return item.deadline <= now + seconds

    def _following(self, component: str) -> list[ComponentQueue]:
        """Queues of the components that a query passes next, one per system that shares `component`."""
        return [self._queues[name] for name in self._followers.get(component, ())]

    def _expire(self, item: BatchItem, deadline: float) -> None:
        """Fails an item whose deadline is near: a waiting one a run's length before it, a running one at it."""
        loop = asyncio.get_running_loop()
        if self._remove(item):
            self._dropped(item, "deadline")
        elif loop.time() < deadline:
            item.timer = loop.call_at(deadline, self._expire, item, deadline)
            return
        item.fail(self._late_error(deadline))

    def _late_error(self, deadline: float) -> Exception:
        """The error of an item that waited too long: its caller's time is over, or others were ahead of it."""
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return DeadlineError(TOO_LATE)
        seconds = sum(queue.time_to_empty() for queue in self._queues.values()) / self._engine.concurrency
        return QueueFullError(max(seconds, left))

    def _dropped(self, item: BatchItem, reason: str) -> None:
        self._observer.item_dropped(item.component, reason)
        self._observer.queue_depth(item.component, self._queues[item.component].items)

    def _dispatch_soon(self) -> None:
        """Starts what can start, once this turn of the event loop is over: items submitted together share a batch."""
        if self._dispatching is None:
            loop = asyncio.get_running_loop()
            self._dispatching = loop.call_soon(self._dispatch, context=self._no_request)

    def _dispatch(self) -> None:
        self._dispatching = None
        if self._hold is not None:
            if self._returning > 0:
                return
            self._end_hold()
        loop = asyncio.get_running_loop()
        while len(self._runs) < self._engine.concurrency and (batch := self._next_batch()):
            run = loop.create_task(self._run(batch))
            self._runs.add(run)
            self._running[run] = (batch[0].component, len(batch), loop.time())
            run.add_done_callback(self._slot_freed)

    def _end_hold(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        self._returning = 0
        self._dispatch_soon()

    def _slot_freed(self, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        component, size, started = self._running.pop(run)
        if component in self._followers or component in self._repeated:
            loop = asyncio.get_running_loop()
            if self._hold is not None:
                self._hold.cancel()
            self._returning += size
            least = LEAST_HOLD if component in self._followers else 0.0
            pause = max(least, HOLD * (loop.time() - started))
            self._hold = loop.call_later(pause, self._end_hold, context=self._no_request)
        self._dispatch_soon()

    def _next_batch(self) -> list[BatchItem]:
        """The items that go next; none if nothing waits."""
        now = asyncio.get_running_loop().time()
        while taken := self._fair.take(now):
            batch: list[BatchItem] = []
            for item in taken:
                self._impatient -= not item.work.patient
                if item.future.done():
                    self._dropped(item, "cancelled")
                elif item.deadline is not None and self._cannot_finish(item, len(taken), now):
                    self._dropped(item, "deadline")
                    item.fail(self._late_error(item.deadline))
                else:
                    batch.append(item)
            component = taken[0].component
            self._observer.queue_depth(component, self._queues[component].items)
            if batch:
                return batch
        return []

    async def _run(self, batch: list[BatchItem]) -> None:
        """Runs one batch and distributes its results."""
        loop = asyncio.get_running_loop()
        component = batch[0].component
        started = loop.time()
        waits = [started - item.submitted for item in batch]
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
            for item in batch:
                item.fail(error)
        else:
            now = loop.time()
            self._queues[component].measured(len(batch), now - started, now)
            self._fair.ran(batch, now - started)
            self._observer.run_finished(component, now - started)
            results = call.result()
            for index, (item, waited) in enumerate(zip(batch, waits, strict=True)):
                if not item.future.done():
                    outputs = {name: array[index] for name, array in results.items()}
                    item.future.set_result(BatchResult(outputs, waited, now - started))

    async def _sit_out(self, call: asyncio.Future[dict[str, npt.NDArray[Any]]], batch: list[BatchItem]) -> None:
        """Fails all items while a run hangs, and returns if it ever ends: a thread cannot be stopped."""
        component = batch[0].component
        self._hanging += 1
        self._observer.run_failed(component)
        self._observer.engine_healthy(False)
        logger.error("%s: a batch of %d has run for over %s s", component, len(batch), self._hang_seconds)
        error = EngineError(component, f"no answer after {self._hang_seconds} s")
        for item in batch:
            item.fail(error)
        for item in self._fair:
            self._remove(item)
            self._dropped(item, "engine")
            item.fail(error)
        await asyncio.wait((call,))
        call.exception()
        self._hanging -= 1
        self._observer.engine_healthy(self.healthy)
        logger.warning("%s: the engine answers again", component)
