"""Request messages are counted before they are read, and given back however a call ends."""

from __future__ import annotations

import asyncio

import pytest

from service.handlers.message_memory import HeldMessage, MessageMemory


async def admitted_soon(task: asyncio.Task[HeldMessage]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


async def test_calls_beyond_the_limit_wait_until_others_turn_out_small_or_end() -> None:
    memory = MessageMemory(100, max_message_bytes=50)
    first, second = await memory.admit(), await memory.admit()
    third = asyncio.create_task(memory.admit())
    assert not await admitted_soon(third)
    first.arrived(30)
    assert not await admitted_soon(third), "only 20 are free"
    second.arrived(10)
    assert await admitted_soon(third)
    fourth = asyncio.create_task(memory.admit())
    assert not await admitted_soon(fourth)
    first.release()
    third.result().release()
    assert await admitted_soon(fourth)


async def test_a_call_that_is_dropped_without_a_word_gives_its_memory_back() -> None:
    memory = MessageMemory(50, max_message_bytes=50)
    held = await memory.admit()
    held.arrived(50)
    waiting = asyncio.create_task(memory.admit())
    assert not await admitted_soon(waiting)
    del held
    assert await admitted_soon(waiting)


async def test_a_waiting_call_that_is_cancelled_takes_no_memory_along() -> None:
    memory = MessageMemory(50, max_message_bytes=50)
    held = await memory.admit()
    leaving, staying = asyncio.create_task(memory.admit()), asyncio.create_task(memory.admit())
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    held.release()
    assert await admitted_soon(staying)


async def test_a_sender_that_is_slow_does_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.handlers.message_memory.UNREAD_SECONDS", 0.01)
    memory = MessageMemory(50, max_message_bytes=50)
    slow = await memory.admit()
    async with asyncio.timeout(20):
        next_one = await memory.admit()
    slow.release()
    next_one.release()
