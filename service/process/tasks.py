"""Waiting for several things at once, where one failure makes the rest pointless."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

First = TypeVar("First")
Second = TypeVar("Second")
Item = TypeVar("Item")


async def together(first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]) -> tuple[First, Second]:
    """Runs two coroutines at the same time and returns both results.

    Raises:
        The first error of either, bare, once the other one is cancelled and gone.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


async def all_of(coroutines: Iterable[Coroutine[Any, Any, Item]]) -> list[Item]:
    """Runs coroutines at the same time and returns their results in order.

    Raises:
        The first error of any, bare, once the others are cancelled and gone.
    """
    waiting = list(coroutines)
    if len(waiting) == 1:
        return [await waiting[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in waiting]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
