"""The cache: what is kept, what is shared, and what a failure, a departure or a deadline changes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from service.caches import SingleFlightCache
from service.errors import DeadlineError


class Work:
    """A computation that ends when told to, and counts how often it was begun and called off."""

    def __init__(self, value: str = "value") -> None:
        self.value = value
        self.begun = 0
        self.called_off = 0
        self.may_end = asyncio.Event()

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.called_off += 1
            raise
        return self.value


def constant(value: str) -> Callable[[], Awaitable[str]]:
    async def compute() -> str:
        return value

    return compute


@pytest.fixture
def cache() -> SingleFlightCache[str, str]:
    return SingleFlightCache(max_bytes=10, size=len)


async def ahead() -> None:
    """Lets other tasks go as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_value_is_computed_once_and_found_from_then_on(cache: SingleFlightCache[str, str]) -> None:
    assert await cache.get("a", constant("1")) == ("1", False)
    assert await cache.get("a", constant("2")) == ("1", True)
    statistics = cache.statistics
    assert (statistics.hits, statistics.misses, statistics.entries, statistics.bytes) == (1, 1, 1, 1)


async def test_the_least_recently_used_value_makes_room(cache: SingleFlightCache[str, str]) -> None:
    await cache.get("old", constant("aaaa"))
    await cache.get("used", constant("bbbb"))
    await cache.get("old", constant("-"))
    await cache.get("new", constant("cccc"))
    assert (await cache.get("old", constant("again")))[1]
    assert not (await cache.get("used", constant("xx")))[1]
    assert cache.statistics.evictions == 1
    assert cache.statistics.bytes == 10


async def test_a_value_larger_than_the_cache_is_returned_but_not_kept(
    cache: SingleFlightCache[str, str],
) -> None:
    await cache.get("small", constant("1"))
    assert await cache.get("large", constant("x" * 11)) == ("x" * 11, False)
    assert (cache.statistics.entries, cache.statistics.evictions) == (1, 0)


async def test_callers_of_the_same_missing_key_share_one_computation(cache: SingleFlightCache[str, str]) -> None:
    work = Work()
    callers = [asyncio.create_task(cache.get("a", work)) for _ in range(5)]
    await ahead()
    work.may_end.set()
    assert await asyncio.gather(*callers) == [("value", False)] * 5
    assert work.begun == 1
    assert (cache.statistics.misses, cache.statistics.shared) == (1, 4)


async def test_a_failure_reaches_everyone_who_waits_and_is_not_kept(cache: SingleFlightCache[str, str]) -> None:
    async def fail() -> str:
        await ahead()
        raise ValueError("broken")

    callers = [asyncio.create_task(cache.get("a", fail)) for _ in range(3)]
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(result) for result in results] == ["broken"] * 3
    assert await cache.get("a", constant("1")) == ("1", False)


async def test_a_caller_who_leaves_does_not_take_the_computation_along(cache: SingleFlightCache[str, str]) -> None:
    work = Work()
    first, second = (asyncio.create_task(cache.get("a", work)) for _ in range(2))
    await ahead()
    first.cancel()
    await ahead()
    work.may_end.set()
    assert await second == ("value", False)
    assert (work.begun, work.called_off) == (1, 0)


async def test_the_last_caller_to_leave_calls_the_computation_off(cache: SingleFlightCache[str, str]) -> None:
    work = Work()
    callers = [asyncio.create_task(cache.get("a", work)) for _ in range(2)]
    await ahead()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    newcomer = asyncio.create_task(cache.get("a", constant("fresh")))
    assert await newcomer == ("fresh", False)
    assert work.called_off == 1


async def test_a_caller_waits_no_longer_than_its_deadline(cache: SingleFlightCache[str, str]) -> None:
    work = Work()
    patient = asyncio.create_task(cache.get("a", work))
    await ahead()
    with pytest.raises(DeadlineError):
        await cache.get("a", work, asyncio.get_running_loop().time() + 0.01)
    work.may_end.set()
    assert await patient == ("value", False)


async def test_who_joined_a_computation_that_ran_out_of_its_starters_time_starts_it_again(
    cache: SingleFlightCache[str, str],
) -> None:
    hurried = asyncio.Event()

    async def run_out() -> str:
        await hurried.wait()
        raise DeadlineError("the starter's")

    starter = asyncio.create_task(cache.get("a", run_out))
    await ahead()
    joiner = asyncio.create_task(cache.get("a", constant("mine")))
    await ahead()
    hurried.set()
    with pytest.raises(DeadlineError, match="starter"):
        await starter
    assert await joiner == ("mine", False)


async def test_what_is_invalidated_is_gone_even_if_it_was_still_being_computed() -> None:
    cache: SingleFlightCache[str, str] = SingleFlightCache(max_bytes=10, size=len, group=lambda key: key[0])
    work = Work()
    await cache.get("a1", constant("1"))
    await cache.get("b1", constant("2"))
    caller = asyncio.create_task(cache.get("a2", work))
    await ahead()
    assert cache.invalidate("a") == 1
    work.may_end.set()
    assert await caller == ("value", False)
    assert await cache.get("a1", constant("3")) == ("3", False)
    assert await cache.get("a2", constant("4")) == ("4", False)
    assert await cache.get("b1", constant("5")) == ("2", True)


async def test_invalidating_a_group_does_not_look_at_the_others() -> None:
    compared = 0

    class Key(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    cache: SingleFlightCache[str, str] = SingleFlightCache(max_bytes=10**6, size=len, group=lambda key: key[:8])
    for number in range(1000):
        await cache.get(Key(f"{number:08}x"), constant("value"))
    compared = 0
    assert cache.invalidate("00000500") == 1
    assert compared < 10
    assert cache.statistics.entries == 999


async def test_a_computation_that_fails_after_everyone_has_left_is_not_logged_as_forgotten(
    cache: SingleFlightCache[str, str],
) -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))

    async def fail_when_called_off() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("on the way out") from None
        return "never"

    caller = asyncio.create_task(cache.get("a", fail_when_called_off))
    await ahead()
    caller.cancel()
    await asyncio.wait([caller])
    del caller
    await ahead()
    gc.collect()
    assert complaints == []
