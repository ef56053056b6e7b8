"""More requests than can be served: those let in are answered in time, the others hear at once that they are not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.arrivals import Outcome, closed_loop, open_loop, outcome, poisson_arrivals
from service.batching.batcher import Batcher
from service.batching.queues import STALE_AFTER, ComponentQueue
from service.errors import DeadlineError, QueueFullError
from tests.service.numpy_engine import tiny_manifest, until
from tests.service.virtual_time import VirtualEngine, VirtualPool, VirtualTimeLoop

BATCH = 16


class SleepingEngine:
    """Takes 1 ms a batch and 6 ms a row in the backbone, and a twentieth of that in the decoder."""

    description = "sleeping"
    concurrency = 1
    useful_batch = None

    def run(self, component: str, inputs: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        rows = len(next(iter(inputs.values())))
        seconds = 0.001 + 0.006 * rows
        time.sleep(seconds if component == "image_backbone" else seconds / 20)
        return {name: np.zeros((rows, 1), np.float32) for name in outputs}

    def close(self) -> None:
        """Holds nothing."""


def caller(batcher: Batcher, patience: float) -> Callable[[int], Awaitable[str]]:
    """Asks for a backbone pass and a decoder pass within so many seconds."""
    image, features = {"image": np.zeros((4, 4, 3), np.uint8)}, {"features": np.zeros(2, np.float32)}

    async def ask(number: int) -> str:
        deadline = asyncio.get_running_loop().time() + patience
        try:
            await batcher.submit("image_backbone", image, ["features"], deadline)
            await batcher.submit("pose_decoder", features, ["keypoints"], deadline)
        except DeadlineError:
            return "DEADLINE_EXCEEDED"
        except QueueFullError:
            return "RESOURCE_EXHAUSTED"
        return "OK"

    return ask


@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_three_times_the_capacity_leaves_the_capacity_and_answers_in_time(spread: float) -> None:
    seconds = 40 * 4.0

    async def measure() -> tuple[Outcome, Outcome]:
        engine = VirtualEngine(batch=0.03, row=0.24, spread=spread)
        batcher = Batcher(engine, tiny_manifest(max_batch_size=BATCH))
        batcher._pool = VirtualPool(engine)
        await closed_loop(caller(batcher, 1e6), BATCH, seconds / 10)
        full = outcome(await closed_loop(caller(batcher, 1e6), BATCH, seconds), seconds=seconds)
        patience = 3 * full.answered.p99
        due = poisson_arrivals(3 * full.throughput, seconds)
        over = outcome(await open_loop(caller(batcher, patience), due), patience, seconds)
        await batcher.close()
        return full, over

    with contextlib.closing(VirtualTimeLoop()) as loop:
        full, over = loop.run_until_complete(measure())
    assert over.goodput > 0.95 * full.throughput
    assert over.answered.p99 <= 3 * full.answered.p99
    assert over.statuses["RESOURCE_EXHAUSTED"] > over.statuses["OK"]
    # Who is turned away hears it at once.
    assert over.refused.p50 < full.answered.p50 / 100


async def test_an_idle_engine_is_tried_whatever_the_last_runs_took() -> None:
    batcher = Batcher(SleepingEngine(), tiny_manifest(max_batch_size=BATCH))
    await closed_loop(caller(batcher, 60), BATCH, 0.6)  # batches of 16: 97 ms
    await until(lambda: batcher.queued == 0)
    assert await caller(batcher, 0.06)(0) == "OK"
    await batcher.close()


def test_a_run_is_judged_by_runs_as_large_and_by_the_share_of_larger_ones() -> None:
    queue = ComponentQueue(max_batch_size=16)
    for rows, seconds in ((1, 0.1), (1, 0.3), (16, 0.8), (8, 0.6)):
        queue.measured(rows, seconds, now=0.0)
    now = 1.0
    assert queue.run_time(1, now) == pytest.approx(0.2)  # the mean of those with one row
    assert queue.run_time(4, now) == pytest.approx(0.2)  # as one row; a quarter of 16 rows is 0.2, too
    assert queue.run_time(7, now) == pytest.approx(0.35)  # 7/16 of 0.8; 7/8 of 0.6 would be more
    assert queue.run_time(8, now) == pytest.approx(0.6)
    assert queue.run_time(16, now) == pytest.approx(0.8)
    assert queue.serving_time(33, now) == pytest.approx(0.8 + 0.8 + 0.2)
    assert queue.usual_batch == 7  # 26 rows in 4 runs
    assert queue.run_time(8, now + STALE_AFTER + 1) == 0.0


def test_nothing_is_concluded_from_the_first_runs() -> None:
    queue = ComponentQueue(max_batch_size=16)
    assert queue.usual_batch == 1
    queue.measured(1, 9.0, now=0.0)
    assert queue.run_time(1, now=0.0) == 0.0
