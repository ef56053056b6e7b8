"""Fair queueing: one queue per caller and priority, served in turn and weighted by cost.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): every flow has a virtual time, the engine seconds that it has
received divided by its weight. The flow that is furthest behind goes first; within a flow the oldest item goes first. A
flow that becomes active starts at the current virtual time, so idle time is not saved up.

Components that continue a request (fusion, pose decoder) go before all others, latest stage first: they finish work
that is paid for, and there are never more of them than fair queueing let in. Steps of a language model are many per
request, so they queue like new work.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from service.batching.queues import BatchItem, ComponentQueue

Priority = Literal["interactive", "bulk"]

WEIGHTS: Mapping[Priority, float] = {"interactive": 4.0, "bulk": 1.0}
"""Shares of the engine where both priorities wait. Bulk work is slowed down, never stopped."""

UNKNOWN_COST = 0.001
"""Seconds per item of a component that has not been measured. The true cost is charged when the run ends."""

INTERACTIVE_MEMORY = 5.0
"""Seconds after an interactive item during which bulk batches stay short, because another one is likely."""

BLOCKING = 2.0
"""Longest bulk batch in that time, in runs of a single item: what an interactive item may have to wait for."""

SLOWDOWN = 1.25
"""An interactive batch is filled up with bulk items only as far as this factor on its run time."""

Group: TypeAlias = tuple[str, Hashable]
Entry: TypeAlias = tuple[int, BatchItem]


@dataclass(frozen=True, slots=True)
class Work:
    """The request that batch items belong to.

    Attributes:
        caller: a token's id, or the connection of a caller without one.
        priority: of the request.
        patient: the request waits for its turn rather than be refused: the server reads on only as it is served.
    """

    caller: str = ""
    priority: Priority = "interactive"
    patient: bool = False


NO_REQUEST = Work()
_current: ContextVar[Work] = ContextVar("work", default=NO_REQUEST)


@contextmanager
def working_for(work: Work) -> Iterator[None]:
    """Assigns the batch items that the block submits, and those of tasks that it starts, to a request."""
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)


def current_work() -> Work:
    """The request that this code runs for."""
    return _current.get()


@dataclass(eq=False, slots=True)
class Flow:
    """Waiting items of one caller and priority.

    Attributes:
        weight: share of the engine.
        served: virtual time: engine seconds received ÷ weight.
        waiting: number of waiting items per component.
        items: heap of all of them that are not continuations, oldest first; may hold items that have left.
    """

    weight: float
    served: float
    waiting: dict[str, int] = field(default_factory=dict)
    items: list[Entry] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not any(self.waiting.values())


class FairQueue:
    """All waiting items of a batcher; for use within one event loop.

    The top of every heap in `_groups` is an item that waits; empty heaps and groups are removed.
    """

    def __init__(self, queues: Mapping[str, ComponentQueue], continuations: frozenset[str]) -> None:
        """Creates an empty queue.

        Args:
            queues: run times and largest batch per component, latest stage first.
            continuations: components that go first.
        """
        self._queues = queues
        self._continuations = [name for name in queues if name in continuations]
        self._flows: dict[Hashable, Flow] = {}
        self._groups: dict[Group, dict[Flow, list[Entry]]] = {}
        self._now_served = 0.0
        self._last_interactive = float("-inf")

    def __iter__(self) -> Iterator[BatchItem]:
        """Iterates over a copy of the waiting items."""
        groups = [heap for flows in self._groups.values() for heap in flows.values()]
        return iter([item for heap in groups for _, item in heap if item.waiting])

    def push(self, item: BatchItem) -> None:
        """Adds an item, newer than all others."""
        flow = self._flow(item.work)
        flow.waiting[item.component] = flow.waiting.get(item.component, 0) + 1
        entry = (item.number, item)
        if item.component not in self._continuations:
            heapq.heappush(flow.items, entry)
        heapq.heappush(self._groups.setdefault((item.component, item.batch_key), {}).setdefault(flow, []), entry)
        self._queues[item.component].items += 1
        item.waiting = True
        if item.work.priority == "interactive":
            self._last_interactive = item.submitted

    def remove(self, item: BatchItem) -> bool:
        """Removes an item. Returns False if it does not wait here any more."""
        if not item.waiting:
            return False
        item.waiting = False
        flow = self._flows[item.work.caller, item.work.priority]
        flow.waiting[item.component] -= 1
        self._queues[item.component].items -= 1
        item.inputs = {}  # deeper in a heap, the item itself stays until it comes to the top
        _drop_gone(flow.items)
        group, heap = (item.component, item.batch_key), self._groups[item.component, item.batch_key][flow]
        _drop_gone(heap)
        if not heap:
            del self._groups[group][flow]
            if not self._groups[group]:
                del self._groups[group]
        return True

    def take(self, now: float) -> list[BatchItem]:
        """Removes and returns the next batch; an empty list if nothing waits."""
        group = self._next_group()
        if group is None:
            return []
        component = group[0]
        cost = self._cost(component)
        flows = [(flow.served, heap[0][0], flow) for flow, heap in self._groups[group].items()]
        heapq.heapify(flows)
        batch: list[BatchItem] = []
        while flows and len(batch) < self._queues[component].full_batch:
            served, _, flow = heapq.heappop(flows)
            heap = self._groups[group][flow]
            item = heapq.heappop(heap)[1]
            if batch and not self._fits(batch, item, now):
                heapq.heappush(heap, (item.number, item))
                break
            self._now_served = max(self._now_served, served) if not batch else self._now_served
            item.charged = cost
            flow.served += cost / flow.weight
            self._took(item, flow)
            batch.append(item)
            _drop_gone(heap)
            if heap:
                heapq.heappush(flows, (flow.served, heap[0][0], flow))
            else:
                del self._groups[group][flow]
        if not self._groups[group]:
            del self._groups[group]
        self._forget_idle()
        return batch

    def ran(self, batch: list[BatchItem], seconds: float) -> None:
        """Corrects what the flows of a batch were charged, now that it has run for `seconds`."""
        for item in batch:
            if (flow := self._flows.get((item.work.caller, item.work.priority))) is not None:
                flow.served += (seconds / len(batch) - item.charged) / flow.weight

    def ahead(self, item: BatchItem) -> tuple[float, float]:
        """What is served before a new item.

        Returns:
            Items of its own component, and seconds of work of other components; continuations are not counted.
        """
        component, cost = item.component, self._cost(item.component)
        own = self._flows.get((item.work.caller, item.work.priority))
        weight = WEIGHTS[item.work.priority]
        backlog = self._backlog(own) if own else 0.0
        served = max(own.served if own else 0.0, self._now_served)
        finish = served + (backlog + cost) / weight
        same = float(own.waiting.get(component, 0)) if own else 0.0
        other = backlog - same * cost
        for flow in self._flows.values():
            if flow is own or not (waiting := self._backlog(flow)):
                continue
            share = min(1.0, max(0.0, finish - flow.served) * flow.weight / waiting)
            items = flow.waiting.get(component, 0)
            same += share * items
            other += share * (waiting - items * cost)
        return same, max(0.0, other)

    def _flow(self, work: Work) -> Flow:
        flow = self._flows.get((work.caller, work.priority))
        if flow is None:
            flow = self._flows[work.caller, work.priority] = Flow(WEIGHTS[work.priority], self._now_served)
        elif flow.empty:
            flow.served = max(flow.served, self._now_served)
        return flow

    def _next_group(self) -> Group | None:
        for component in self._continuations:
            if self._queues[component].items:
                groups = [group for group in self._groups if group[0] == component]
                return min(groups, key=lambda group: min(heap[0][0] for heap in self._groups[group].values()))
        flows = []
        for flow in self._flows.values():
            _drop_gone(flow.items)  # items may have left as company of another component's oldest
            if flow.items:
                flows.append((flow.served, flow.items[0][0], flow))
        if not flows:
            return None
        item = min(flows, key=lambda entry: entry[:2])[2].items[0][1]
        return item.component, item.batch_key

    def _fits(self, batch: list[BatchItem], item: BatchItem, now: float) -> bool:
        """Whether a batch may grow by an item, for the sake of interactive callers."""
        queue = self._queues[item.component]
        larger = queue.expected(len(batch) + 1)
        if item.work.priority == "interactive" or now - self._last_interactive > INTERACTIVE_MEMORY:
            return True
        interactive = sum(other.work.priority == "interactive" for other in batch)
        if interactive:
            return larger <= SLOWDOWN * queue.expected(interactive)
        return larger <= BLOCKING * queue.expected(1)

    def _took(self, item: BatchItem, flow: Flow) -> None:
        item.waiting = False
        flow.waiting[item.component] -= 1
        self._queues[item.component].items -= 1

    def _cost(self, component: str) -> float:
        return self._queues[component].seconds_per_item or UNKNOWN_COST

    def _backlog(self, flow: Flow) -> float:
        """Seconds of waiting work that is not continuation."""
        return sum(
            count * self._cost(component)
            for component, count in flow.waiting.items()
            if count and component not in self._continuations
        )

    def _forget_idle(self) -> None:
        """Drops flows that are empty and have no more than their share; the others keep their debt."""
        idle = [key for key, flow in self._flows.items() if flow.empty and flow.served <= self._now_served]
        for key in idle:
            del self._flows[key]


def _drop_gone(heap: list[Entry]) -> None:
    """Removes items from the top of a heap that have left the queue."""
    while heap and not heap[0][1].waiting:
        heapq.heappop(heap)
