"""The batcher: who shares a batch, who goes first, who is turned away, and what a failure reaches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from service.batching.batcher import Batcher
from service.batching.queues import STALE_AFTER, ComponentQueue
from service.engines.base import BatchResult
from service.errors import DeadlineError, EngineError, QueueFullError
from tests.service.numpy_engine import CELLS, CHANNELS, SIZE, WIDTH, NumpyEngine, tiny_manifest, until


def image(brightness: int, size: int = SIZE) -> dict[str, np.ndarray]:
    return {"image": np.full((size, size, 3), brightness, dtype=np.uint8)}


def brightness(result: BatchResult) -> int:
    return round(float(result.outputs["features"].mean()) * 255)


def decoder_inputs() -> dict[str, np.ndarray]:
    return {
        "features": np.zeros((CHANNELS, CELLS, CELLS), dtype=np.float32),
        "support_tokens": np.zeros((1, 4, WIDTH), dtype=np.float32),
        "mask": np.ones((1, 4), dtype=np.float32),
        "adjacency": np.zeros((4, 4), dtype=np.float32),
    }


class Bench:
    """A batcher on a numpy engine."""

    def __init__(self, **options: Any) -> None:
        self.engine = NumpyEngine()
        self.batcher = Batcher(self.engine, tiny_manifest(), **options)

    def backbone(self, value: int, deadline: float | None = None, size: int = SIZE) -> asyncio.Task[BatchResult]:
        item = self.batcher.submit("image_backbone", image(value, size), ["features"], deadline)
        return asyncio.create_task(item)

    def decoder(self, *outputs: str) -> asyncio.Task[BatchResult]:
        wanted = outputs or ("keypoints",)
        return asyncio.create_task(self.batcher.submit("pose_decoder", decoder_inputs(), wanted))

    def runs_have_taken(self, seconds: float) -> None:
        """Makes the batcher believe that the image backbone takes so long."""
        for _ in range(3):
            queue = self.batcher._queues["image_backbone"]
            queue.measured(items=1, seconds=seconds, now=asyncio.get_running_loop().time())

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[asyncio.Task[BatchResult]]:
        """Keeps the engine busy with one item, which is handed over."""
        before = len(self.engine.runs)
        with self.engine.held():
            running = self.backbone(0)
            await until(lambda: len(self.engine.runs) > before)
            yield running


async def test_an_idle_engine_starts_a_item_at_once() -> None:
    bench = Bench()
    assert brightness(await bench.backbone(7)) == 7
    assert bench.engine.batches() == [1]


async def test_items_that_arrive_while_the_engine_is_busy_share_the_next_batch() -> None:
    bench = Bench()
    async with bench.busy():
        items = [bench.backbone(value) for value in (1, 2, 3)]
        await until(lambda: bench.batcher.queued == 3)
    assert [brightness(await item) for item in items] == [1, 2, 3]
    assert bench.engine.batches() == [1, 3]


async def test_items_submitted_together_share_a_batch_on_an_idle_engine_too() -> None:
    bench = Bench()
    await asyncio.gather(*(bench.backbone(value) for value in (1, 2, 3)))
    assert bench.engine.batches() == [3]


async def test_a_batch_is_no_larger_than_the_component_allows_and_the_oldest_items_go_first() -> None:
    bench = Bench()
    async with bench.busy():
        items = [bench.backbone(value) for value in range(1, 7)]
        await until(lambda: bench.batcher.queued == 6)
    await asyncio.gather(*items)
    assert bench.engine.batches() == [1, 4, 2]
    assert bench.engine.runs[1][1]["image"][:, 0, 0, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(("useful", "most", "expected"), [(2, None, [1, 2, 2]), (2, 3, [1, 3, 1]), (None, 9, [1, 4])])
async def test_a_backbone_batch_is_as_large_as_pays_or_as_was_said_but_no_larger_than_the_model_allows(
    monkeypatch: pytest.MonkeyPatch, useful: int | None, most: int | None, expected: list[int]
) -> None:
    monkeypatch.setattr(NumpyEngine, "useful_batch", useful)
    bench = Bench(max_batch=most)
    async with bench.busy():
        items = [bench.backbone(value) for value in range(4)]
        await until(lambda: bench.batcher.queued == 4)
    await asyncio.gather(*items)
    assert bench.engine.batches() == expected


async def test_only_backbone_batches_are_bounded_by_what_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NumpyEngine, "useful_batch", 1)
    bench = Bench()
    await asyncio.gather(bench.decoder(), bench.decoder(), bench.decoder())
    assert bench.engine.batches() == [3]


async def test_items_of_different_shapes_or_wanted_outputs_do_not_share_a_batch() -> None:
    bench = Bench()
    async with bench.busy():
        items = [bench.backbone(1), bench.backbone(2, size=8), bench.backbone(3)]
        items += [bench.decoder("keypoints"), bench.decoder("keypoints", "scores")]
        await until(lambda: bench.batcher.queued == 5)
    await asyncio.gather(*items)
    assert bench.engine.batches("image_backbone") == [1, 2, 1]
    assert bench.engine.batches("pose_decoder") == [1, 1]
    assert set((await items[4]).outputs) == {"keypoints", "scores"}


async def test_the_component_latest_in_the_chain_goes_first() -> None:
    bench = Bench()
    async with bench.busy():
        early = bench.backbone(1)
        await until(lambda: bench.batcher.queued == 1)
        late = bench.decoder()
        await until(lambda: bench.batcher.queued == 2)
    await asyncio.gather(early, late)
    assert [component for component, _ in bench.engine.runs[1:]] == ["pose_decoder", "image_backbone"]


async def test_a_full_queue_turns_new_requests_away_but_lets_requests_under_way_go_on() -> None:
    bench = Bench(max_queue=2)
    async with bench.busy():
        waiting = [bench.backbone(1), bench.backbone(2)]
        await until(lambda: bench.batcher.queued == 2)
        with pytest.raises(QueueFullError) as refusal:
            await bench.backbone(3)
        under_way = bench.decoder()
        await until(lambda: bench.batcher.queued == 3)
    await asyncio.gather(*waiting, under_way)
    assert refusal.value.retry_after > 0


async def test_the_time_after_which_to_retry_follows_from_what_waits_and_how_fast_it_runs() -> None:
    queue = ComponentQueue(max_batch_size=4)
    queue.measured(items=4, seconds=2.0, now=0.0)
    queue.measured(items=2, seconds=1.0, now=2.0)
    queue.items = 10
    assert queue.time_to_empty() == pytest.approx(5.0)


async def test_a_deadline_that_has_passed_is_refused_at_once() -> None:
    bench = Bench()
    with pytest.raises(DeadlineError):
        await bench.backbone(1, asyncio.get_running_loop().time() - 1)
    assert bench.engine.runs == []


async def test_a_item_fails_when_its_deadline_passes_in_the_queue_without_waiting_for_its_turn() -> None:
    bench = Bench()
    async with bench.busy() as running:
        with pytest.raises(DeadlineError):
            await bench.backbone(1, asyncio.get_running_loop().time() + 0.02)
        assert not running.done()
        assert bench.batcher.queued == 0
    await running
    assert bench.engine.batches() == [1]


async def test_a_item_that_waits_fails_as_soon_as_a_run_would_not_end_before_its_deadline() -> None:
    bench = Bench()
    bench.runs_have_taken(60)
    deadline = asyncio.get_running_loop().time() + 60.02
    async with bench.busy():
        with pytest.raises(QueueFullError):
            await bench.backbone(1, deadline)
    assert asyncio.get_running_loop().time() < deadline


@pytest.mark.parametrize("usual_run", [0.0, 0.02])
async def test_a_item_that_runs_fails_at_its_deadline(usual_run: float) -> None:
    bench = Bench()
    bench.runs_have_taken(usual_run)
    with bench.engine.held(), pytest.raises(DeadlineError):
        await bench.backbone(1, asyncio.get_running_loop().time() + 0.2)
    await bench.batcher.close()
    assert bench.engine.batches() == [1]


async def test_a_deadline_that_no_recent_run_could_have_kept_is_refused_without_work() -> None:
    bench = Bench()
    for _ in range(3):
        async with bench.busy() as running:
            await asyncio.sleep(0.03)
        await running
    with pytest.raises(DeadlineError):
        await bench.backbone(1, asyncio.get_running_loop().time() + 0.02)
    assert len(bench.engine.runs) == 3
    assert brightness(await bench.backbone(9, asyncio.get_running_loop().time() + 60)) == 9


def test_slow_runs_of_long_ago_keep_nobody_away() -> None:
    queue = ComponentQueue(max_batch_size=4)
    for now in (1.0, 2.0, 3.0):
        queue.measured(items=1, seconds=9.0, now=now)
    assert queue.run_time(1, now=4.0) == 9.0
    assert queue.run_time(1, now=3.1 + STALE_AFTER) == 0.0


def test_one_slow_first_run_says_nothing_yet() -> None:
    queue = ComponentQueue(max_batch_size=4)
    queue.measured(items=1, seconds=9.0, now=1.0)
    assert queue.run_time(1, now=1.0) == 0.0


async def test_a_cancelled_caller_takes_its_item_out_of_the_queue() -> None:
    bench = Bench()
    async with bench.busy() as running:
        leaving, staying = bench.backbone(1), bench.backbone(2)
        await until(lambda: bench.batcher.queued == 2)
        leaving.cancel()
        await until(lambda: bench.batcher.queued == 1)
    assert brightness(await staying) == 2
    await running
    assert bench.engine.runs[1][1]["image"][:, 0, 0, 0].tolist() == [2]


async def test_a_caller_who_leaves_just_before_its_item_would_start_costs_no_run() -> None:
    bench = Bench()
    item = bench.backbone(1)
    await asyncio.sleep(0)
    item.cancel()
    await asyncio.wait([item])
    assert brightness(await bench.backbone(2)) == 2
    assert [inputs["image"][0, 0, 0, 0] for _, inputs in bench.engine.runs] == [2]


async def test_an_engine_failure_reaches_its_batch_and_nobody_else() -> None:
    bench = Bench()
    async with bench.busy() as running:
        waiting = bench.backbone(3)
        await until(lambda: bench.batcher.queued == 1)
        bench.engine.error = EngineError("image_backbone", "out of memory")
    with pytest.raises(EngineError, match="image_backbone: out of memory"):
        await running
    assert brightness(await waiting) == 3


async def test_any_other_exception_of_an_engine_becomes_an_engine_error_naming_the_component() -> None:
    bench = Bench()
    bench.engine.error = ZeroDivisionError("by zero")
    with pytest.raises(EngineError, match="image_backbone: ZeroDivisionError"):
        await bench.backbone(1)


async def test_an_answer_for_another_number_of_items_is_an_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.setattr(bench.engine, "run", lambda *_: {"features": np.zeros((2, 1))})
    with pytest.raises(EngineError, match="1 items"):
        await bench.backbone(1)


async def test_a_hanging_engine_fails_everyone_turns_unhealthy_and_may_recover() -> None:
    bench = Bench(hang_seconds=0.05)
    with bench.engine.held():
        running = bench.backbone(1)
        await until(lambda: len(bench.engine.runs) == 1)
        waiting = bench.decoder()
        for item in (running, waiting):
            with pytest.raises(EngineError, match="no answer"):
                await item
        assert not bench.batcher.healthy
        with pytest.raises(EngineError, match="does not answer"):
            await bench.backbone(2)
        await bench.batcher.close()
    await until(lambda: bench.batcher.healthy)


async def test_closing_serves_what_waits_and_refuses_the_rest() -> None:
    bench = Bench()
    async with bench.busy() as running:
        waiting = bench.backbone(5)
        await until(lambda: bench.batcher.queued == 1)
        closing = asyncio.create_task(bench.batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="shutting down"):
            await bench.backbone(6)
        assert not closing.done()
    await closing
    assert brightness(await waiting) == 5
    assert running.done()


async def test_no_item_is_lost_or_mixed_up_when_many_come_leave_and_run_out_of_time() -> None:
    bench = Bench()
    random = np.random.default_rng(0)

    async def call(value: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.05))
        deadline = asyncio.get_running_loop().time() + random.choice([0.001, 60])
        item = bench.backbone(value, deadline)
        if random.uniform() < 0.2:
            item.cancel()
        try:
            assert brightness(await item) == value
        except (DeadlineError, QueueFullError, asyncio.CancelledError):
            return

    await asyncio.gather(*(call(value) for value in range(250)))
    await bench.batcher.close()
    assert bench.batcher.queued == 0


def test_where_items_differ_in_cost_the_quickest_run_says_what_one_takes_at_least() -> None:
    """A prefix of nine seconds must not have a last step called off that takes one."""
    even, uneven = ComponentQueue(4), ComponentQueue(4, uneven=True)
    for queue in (even, uneven):
        for seconds in (9.0, 1.0, 9.0, 1.0):
            queue.measured(items=2, seconds=seconds, now=0.0)
    assert (even.run_time(2, now=1.0), uneven.run_time(2, now=1.0)) == (5.0, 1.0)
    assert uneven.run_time(1, now=1.0) == 0.5
