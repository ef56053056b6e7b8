"""Fair queueing in virtual time: bulk beside interactive callers, texts beside crops, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import numpy as np

from cape.manifest import Manifest
from service.batching.batcher import Batcher
from service.batching.scheduler import Work, working_for
from service.errors import QueueFullError
from tests.service.numpy_engine import tiny_manifest
from tests.service.virtual_time import VirtualEngine, VirtualPool, VirtualTimeLoop

Result = TypeVar("Result")
CROP = {"image": np.zeros((4, 4, 3), np.uint8)}
FEATURES = {"features": np.zeros(2, np.float32)}
TEXT = {"input_ids": np.zeros((1, 8), np.int64), "attention_mask": np.ones((1, 8), np.int64)}
SECONDS = 60.0


def in_virtual_time(measure: Coroutine[Any, Any, Result]) -> Result:
    with contextlib.closing(VirtualTimeLoop()) as loop:
        return loop.run_until_complete(measure)


def virtual_batcher(batch: float = 0.01, item: float = 0.08, **options: Any) -> Batcher:
    """A CPU: batches of 4 crops, hardly cheaper than 4 of one."""
    engine = VirtualEngine(batch=batch, row=item, spread=0.05)
    batcher = Batcher(engine, tiny_manifest(max_batch_size=4), **options)
    batcher._pool = VirtualPool(engine)
    return batcher


async def query(batcher: Batcher, deadline: float | None = None) -> None:
    await batcher.submit("image_backbone", CROP, ["features"], deadline)
    await batcher.submit("pose_decoder", FEATURES, ["keypoints"], deadline)


async def repeated(
    ask: Callable[[], Awaitable[object]], work: Work, until: float, *, pause: float = 0.0
) -> list[float]:
    """Latencies of one caller that asks again as soon as it has its answer."""
    loop, latencies = asyncio.get_running_loop(), []
    with working_for(work):
        while loop.time() < until:
            started = loop.time()
            await ask()
            if loop.time() < until:
                latencies.append(loop.time() - started)
            await asyncio.sleep(pause)
    return latencies


async def bulk(batcher: Batcher, caller: str, until: float, items: int = 64) -> int:
    """Answered boxes of a stream of requests with many boxes."""
    loop, answered = asyncio.get_running_loop(), 0

    async def box() -> None:
        nonlocal answered
        await query(batcher)
        answered += loop.time() < until

    with working_for(Work(caller, "bulk", patient=True)):
        while loop.time() < until:
            await asyncio.gather(*(box() for _ in range(items)))
    return answered


def test_an_interactive_caller_beside_a_bulk_stream_waits_at_most_three_times_as_long_as_alone() -> None:
    async def measure() -> tuple[list[float], list[float], int, int]:
        batcher = virtual_batcher()
        loop = asyncio.get_running_loop()
        caller = Work("interactive")
        alone = await repeated(lambda: query(batcher), caller, SECONDS, pause=0.2)
        # Throughput of the bulk stream without company, after the memory of the interactive caller has faded.
        await asyncio.sleep(6)
        full = await bulk(batcher, "bulk", loop.time() + SECONDS)
        end = loop.time() + SECONDS
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(repeated(lambda: query(batcher), caller, end, pause=0.2))
            answered = group.create_task(bulk(batcher, "bulk", end))
        return alone, beside.result(), full, answered.result()

    alone, beside, full, answered = in_virtual_time(measure())
    assert np.percentile(beside, 99) <= 3 * np.percentile(alone, 99)
    # Nothing is lost: what the interactive caller takes is missing in the stream, and 5 % at most beyond.
    assert answered + len(beside) >= 0.95 * full


def test_equal_callers_are_served_equally() -> None:
    async def measure() -> list[int]:
        batcher = virtual_batcher()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(repeated(lambda: query(batcher), Work(str(number)), SECONDS)) for number in range(16)
            ]
        return [len(task.result()) for task in tasks]

    answers = in_virtual_time(measure())
    assert max(answers) - min(answers) <= 2


def test_a_caller_with_many_requests_gets_no_larger_share_than_one_with_few() -> None:
    async def measure() -> list[int]:
        batcher = virtual_batcher()
        async with asyncio.TaskGroup() as group:
            many = [group.create_task(repeated(lambda: query(batcher), Work("many"), SECONDS)) for _ in range(64)]
            few = [group.create_task(repeated(lambda: query(batcher), Work("few"), SECONDS)) for _ in range(8)]
        return [sum(len(task.result()) for task in tasks) for tasks in (many, few)]

    many, few = in_virtual_time(measure())
    assert abs(many - few) <= 0.1 * few


def test_texts_of_new_supports_do_not_starve_crops() -> None:
    async def measure() -> list[float]:
        batcher = virtual_batcher()
        loop = asyncio.get_running_loop()

        async def text() -> None:
            await batcher.submit("text_encoder", TEXT, ["embeddings"])

        feeders = [loop.create_task(repeated(text, Work("texts"), SECONDS)) for _ in range(12)]
        latencies = await repeated(lambda: query(batcher, loop.time() + 3), Work("crops"), SECONDS)
        await asyncio.gather(*feeders)
        return latencies

    assert max(in_virtual_time(measure())) < 1.5


def test_texts_of_the_same_caller_do_not_starve_its_crops() -> None:
    async def measure() -> None:
        batcher = virtual_batcher()
        loop = asyncio.get_running_loop()

        async def text() -> None:
            await batcher.submit("text_encoder", TEXT, ["embeddings"])

        feeders = [loop.create_task(repeated(text, Work(), 10)) for _ in range(12)]
        await asyncio.sleep(0.2)
        await asyncio.gather(*(query(batcher, loop.time() + 5) for _ in range(8)))
        await asyncio.gather(*feeders)

    in_virtual_time(measure())


def test_a_lone_stream_loses_none_of_its_items() -> None:
    async def measure() -> int:
        batcher = virtual_batcher(max_queue=100)
        with working_for(Work("stream", "bulk", patient=True)):
            await asyncio.gather(*(query(batcher) for _ in range(16 * 64)))
        return batcher.queued

    assert in_virtual_time(measure()) == 0


def test_a_deadline_that_others_ahead_make_impossible_is_an_overload_with_a_time_to_retry() -> None:
    async def measure() -> float:
        batcher = virtual_batcher()
        await asyncio.gather(*(query(batcher) for _ in range(20)))
        waiting = [asyncio.ensure_future(query(batcher)) for _ in range(100)]
        await asyncio.sleep(0.01)
        try:
            await query(batcher, asyncio.get_running_loop().time() + 2)
        except QueueFullError as error:
            return error.retry_after
        finally:
            await asyncio.gather(*waiting)
        return 0.0

    assert 0 < in_virtual_time(measure()) < 100


def test_a_new_caller_s_deadline_is_not_judged_by_the_backlog_of_another_one() -> None:
    async def measure() -> None:
        batcher = virtual_batcher()
        await asyncio.gather(*(query(batcher) for _ in range(20)))
        with working_for(Work("bulk", "bulk", patient=True)):
            waiting = [asyncio.ensure_future(query(batcher)) for _ in range(1000)]
        await asyncio.sleep(0.01)
        with working_for(Work("interactive")):
            await query(batcher, asyncio.get_running_loop().time() + 2)
        await asyncio.gather(*waiting)

    in_virtual_time(measure())


def test_systems_that_share_a_backbone_are_each_judged_by_their_own_decoder() -> None:
    manifest = tiny_manifest()
    system = manifest.systems["flf"]
    other = system.model_copy(update={"components": {**system.components, "pose_decoder": "other_decoder"}})
    shared = manifest.model_copy(
        update={
            "components": {**manifest.components, "other_decoder": manifest.components["pose_decoder"]},
            "systems": {"flf": system, "dlf": other},
        }
    )
    assert isinstance(shared, Manifest)

    async def measure() -> list[str]:
        engine = VirtualEngine(batch=0.01, row=0.08, spread=0.0)
        batcher = Batcher(engine, shared)
        batcher._pool = VirtualPool(engine)
        followers = batcher._followers["image_backbone"]
        await batcher.close()
        return sorted(followers)

    assert in_virtual_time(measure()) == ["other_decoder", "pose_decoder"]
