"""Rows under way: never more than there may be, in the order of arrival, and none lost with a caller who leaves."""

from __future__ import annotations

import asyncio

import pytest

from service.batching.reservations import Reservations
from service.errors import DeadlineError


class Holder:
    """Somebody who wants rows, and holds them until he is told to end."""

    def __init__(self, budget: Reservations, rows: int, latest: float | None = None) -> None:
        self.has, self.end = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._hold(budget, rows, latest))

    async def _hold(self, budget: Reservations, rows: int, latest: float | None) -> None:
        async with budget.reserved(rows, latest):
            self.has.set()
            await self.end.wait()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_those_who_fit_go_at_once_and_the_others_in_their_order() -> None:
    budget = Reservations(10)
    first, second, large, small = (Holder(budget, rows) for rows in (4, 6, 8, 1))
    await turns()
    assert [holder.has.is_set() for holder in (first, second, large, small)] == [True, True, False, False]
    assert budget.waiting == 0.9
    first.end.set()
    await turns()
    assert not large.has.is_set(), "4 are free"
    assert not small.has.is_set(), "nobody overtakes"
    second.end.set()
    await turns()
    assert large.has.is_set()
    assert small.has.is_set()


async def test_more_than_there_are_count_as_all() -> None:
    budget = Reservations(10)
    everything, next_one = Holder(budget, 68), Holder(budget, 1)
    await turns()
    assert everything.has.is_set()
    assert not next_one.has.is_set()
    everything.end.set()
    await turns()
    assert next_one.has.is_set()


async def test_whoever_leaves_makes_room() -> None:
    budget = Reservations(10)
    first, leaving, small = Holder(budget, 8), Holder(budget, 5), Holder(budget, 2)
    await turns()
    leaving.task.cancel()
    await turns()
    assert small.has.is_set()
    # One leaves in the very moment in which its turn comes.
    unlucky = Holder(budget, 8)
    await turns()
    first.end.set()
    await asyncio.sleep(0)
    unlucky.task.cancel()
    await turns()
    small.end.set()
    await turns()
    last = Holder(budget, 10)
    await turns()
    assert last.has.is_set()


async def test_nobody_waits_longer_than_makes_sense() -> None:
    budget = Reservations(10)
    first = Holder(budget, 10)
    await turns()
    late = Holder(budget, 1, latest=asyncio.get_running_loop().time() + 0.01)
    with pytest.raises(DeadlineError):
        await late.task
    assert budget.waiting == 0
    first.end.set()
    await first.task
