"""Engines that run a query at once: their queries are batched like a component's items."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.batching.batcher import Batcher
from service.engines.base import QueryEngine, query_models
from tests.service.numpy_engine import NumpyEngine, tiny_manifest


class FusedEngine:
    """Answers the query model with the sum of each item's pixels."""

    description = "fused"
    concurrency = 1
    useful_batch = None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def query_model(self, system: str) -> str | None:
        return f"{system}_query"

    def run(self, component: str, inputs: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        assert component == "flf_query"
        self.batches.append(len(inputs["image"]))
        sums = inputs["image"].reshape(len(inputs["image"]), -1).sum(axis=1)
        return {name: sums[:, np.newaxis].astype(np.float32) for name in outputs}

    def close(self) -> None:
        """Holds nothing."""


async def test_queries_of_many_callers_share_batches_and_each_gets_its_own_answer() -> None:
    engine = FusedEngine()
    batcher = Batcher(engine, tiny_manifest(max_batch_size=4))
    assert batcher.query_model("flf") == "flf_query"
    images = [np.full((4, 4, 3), number, np.uint8) for number in range(9)]
    found = await asyncio.gather(*(batcher.submit("flf_query", {"image": image}, ["keypoints"]) for image in images))
    assert [float(one.outputs["keypoints"][0]) for one in found] == [48.0 * number for number in range(9)]
    assert sum(engine.batches) == 9 and 1 < max(engine.batches) <= 4
    await batcher.close()


def test_an_engine_without_query_models_has_none() -> None:
    manifest = tiny_manifest()
    assert isinstance(FusedEngine(), QueryEngine)
    assert query_models(FusedEngine(), manifest) == {"flf": "flf_query"}
    assert query_models(NumpyEngine(), manifest) == {}
