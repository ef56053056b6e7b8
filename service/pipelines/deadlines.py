"""Deadlines of calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from service.errors import DeadlineError

Context = grpc.aio.ServicerContext[Any, Any]


def deadline_of(context: Context, default_seconds: float) -> float:
    """Deadline of a call as an event loop time: the caller's, or the default."""
    remaining = context.time_remaining()
    now = asyncio.get_running_loop().time()
    return now + (default_seconds if remaining is None else remaining)


def call_deadline(context: Context) -> float | None:
    """The deadline that a caller has set, as an event loop time; None without one."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


@asynccontextmanager
async def due(deadline: float | None) -> AsyncIterator[None]:
    """Cancels the block when the deadline passes.

    Raises:
        DeadlineError: it passed.
    """
    try:
        async with asyncio.timeout_at(deadline) as timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineError("the deadline has passed") from None
