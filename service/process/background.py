"""Background tasks: an error in one is logged and counted, and the task starts again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
"""Pause before a failed task starts again: doubled with every failure in a row, at most this long."""

STABLE_SECONDS = 60.0
"""A task that ran this long counts as healthy: its next failure starts with the first pause again."""


class FailureCounter(Protocol):
    """Counts failures of background tasks."""

    def background_task_started(self, task: str) -> None:
        """Adds a task to the metrics, with no failures."""

    def background_task_failed(self, task: str) -> None:
        """Counts a failure of a task."""


class BackgroundTasks:
    """Runs tasks for as long as the server runs; for use within one event loop."""

    def __init__(self, failures: FailureCounter, *, first_pause: float = FIRST_PAUSE_SECONDS) -> None:
        """Starts without tasks.

        Args:
            failures: counts failures by task.
            first_pause: seconds between the first failure of a task and its restart.
        """
        self._failures = failures
        self._first_pause = first_pause
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Runs `run` until `close`, and again whenever it fails or returns.

        Args:
            name: of the task in logs and metrics.
            run: works until it is cancelled.
        """
        self._failures.background_task_started(name)
        self._tasks.append(asyncio.create_task(self._keep_running(name, run), name=name))

    async def close(self) -> None:
        """Cancels every task and waits until all have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        pause = self._first_pause
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await run()
                logger.error("background task %s ended; it starts again in %.1f s", name, pause)
            except Exception:
                logger.exception("background task %s failed; it starts again in %.1f s", name, pause)
            self._failures.background_task_failed(name)
            if loop.time() - started > STABLE_SECONDS:
                pause = self._first_pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
