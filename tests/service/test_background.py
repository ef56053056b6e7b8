"""Background tasks start again after an error, and the error is logged and counted."""

from __future__ import annotations

import asyncio

import pytest

from service.process.background import BackgroundTasks
from service.telemetry.metrics import Metrics
from tests.service.numpy_engine import tiny_manifest


async def test_a_task_that_fails_starts_again_and_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(tiny_manifest(), version="1", engine="numpy")
    tasks = BackgroundTasks(metrics, first_pause=0.001)
    runs, steady = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("month must be in 1..12")
        if runs == 3:
            steady.set()
            await asyncio.Event().wait()

    tasks.start("tokens", work)
    await asyncio.wait_for(steady.wait(), 20)
    await tasks.close()
    count = metrics.registry.get_sample_value("capeserve_background_task_failures_total", {"task": "tokens"})
    assert (runs, count) == (3, 2)
    assert "month must be in 1..12" in caplog.text


async def test_closing_ends_tasks_that_wait_and_tasks_that_pause() -> None:
    metrics = Metrics(tiny_manifest(), version="1", engine="numpy")
    tasks = BackgroundTasks(metrics, first_pause=60)

    async def fail() -> None:
        raise OSError("no")

    tasks.start("health", fail)
    tasks.start("tokens", asyncio.Event().wait)
    await asyncio.sleep(0)
    await asyncio.wait_for(tasks.close(), 20)
