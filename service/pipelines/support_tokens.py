"""From supports and query crops to keypoints.

A support set is encoded once, into tokens that a cache keeps. A query then costs one pass of the image
backbone and one of the pose decoder, and its backbone pass can run while the tokens are still being computed:

    (support, trace), queries = await together(
        estimator.support_tokens(system, source, deadline),
        estimator.query_features(system, crops, deadline),
    )
    answer = await estimator.estimate(system, support, queries, deadline)

Deadlines are event loop times; coordinates are fractions of the crop, 0–1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cape.manifest import Manifest
from service.caches import SingleFlightCache
from service.engines.base import BatchResult, BatchRunner
from service.pipelines.base import Estimate, Estimates, PartialCallback, SupportTrace
from service.pipelines.image_features import image_features
from service.pipelines.support_encoder import SupportEncoder, SupportTokens
from service.pipelines.texts import TextError, text_field_error
from service.process.tasks import all_of
from service.supports.store import SupportSource

__all__ = [
    "Estimate",
    "Estimates",
    "PoseEstimator",
    "QueryCrops",
    "QueryFeatures",
    "SupportCache",
    "SupportTokens",
    "support_cache",
]

Float: TypeAlias = npt.NDArray[np.float32]

SupportCache: TypeAlias = SingleFlightCache[tuple[str, str], tuple[SupportTokens, SupportTrace]]
"""Support tokens, and how they were computed, by key of the support and version of the system."""


def support_cache(max_bytes: int) -> SupportCache:
    """A cache of support tokens that holds at most `max_bytes`."""
    return SingleFlightCache(max_bytes, size=lambda entry: entry[0].nbytes, group=lambda key: key[0])


@dataclass(frozen=True, slots=True)
class QueryFeatures:
    """Query crops after the image backbone.

    Attributes:
        features: one [C, F, F] per crop.
        seconds: from the call to the last of them.
        queue_seconds: of those, waiting for the engine (the longest wait of a crop).
    """

    features: tuple[npt.NDArray[Any], ...]
    seconds: float
    queue_seconds: float


@dataclass(frozen=True, slots=True)
class QueryCrops:
    """Query crops of which nothing is computed yet: one model will take them together with the support's tokens.

    Attributes:
        crops: RGB, uint8 [size, size, 3] each.
        model: takes them, see `BatchRunner.query_model`.
        seconds, queue_seconds: 0, as for `QueryFeatures`.
    """

    crops: tuple[npt.NDArray[np.uint8], ...]
    model: str
    seconds: float = 0.0
    queue_seconds: float = 0.0


class PoseEstimator:
    """Answers queries by the tokens of a support. Implements `service.pipelines.base.Pipeline`."""

    has_maps = True

    def __init__(
        self, manifest: Manifest, runner: BatchRunner, encoder: SupportEncoder, supports: SupportCache
    ) -> None:
        """Puts the parts together.

        Args:
            manifest: what is served.
            runner: runs components.
            encoder: computes support tokens.
            supports: keeps them, see `support_cache`.
        """
        self._systems = manifest.support_systems
        self._runner = runner
        self._encoder = encoder
        self._supports = supports
        self._versions = {system: manifest.version(system) for system in self._systems}

    async def support_tokens(
        self, system: str, source: SupportSource, deadline: float | None = None
    ) -> tuple[SupportTokens, SupportTrace]:
        """Looks a support's tokens up, or computes them; callers that ask at the same time share the work.

        Args:
            system: a system of the manifest.
            source: the support; loaded only when its tokens are not there.
            deadline: event loop time by which they are needed.

        Raises:
            MissingModalityError: the support lacks what the system needs.
            DeadlineError, QueueFullError, EngineError: from the runner; and whatever loading it raises.
        """

        async def compute() -> tuple[SupportTokens, SupportTrace]:
            try:
                return await self._encoder.encode(system, await source.load(), deadline)
            except TextError as error:
                raise source.complaint(text_field_error(error, source.definition)) from None

        (tokens, trace), hit = await self._supports.get(
            (source.definition.key, self._versions[system]), compute, deadline
        )
        return tokens, SupportTrace(cache_hit=True) if hit else trace

    def has_tokens(self, system: str, source: SupportSource) -> bool:
        """See `service.pipelines.base.Pipeline.has_tokens`."""
        return (source.definition.key, self._versions[system]) in self._supports

    async def query_features(
        self, system: str, crops: Sequence[npt.NDArray[np.uint8]], deadline: float | None = None
    ) -> QueryFeatures:
        """Runs the image backbone on query crops.

        Args:
            system: a system of the manifest.
            crops: RGB, uint8 [size, size, 3] each, with the manifest's image_size.
            deadline: event loop time by which they are needed.

        Raises:
            DeadlineError, QueueFullError, EngineError: from the runner.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        rows = await image_features(self._runner, self._systems[system], crops, deadline)
        features = tuple(row.outputs["features"] for row in rows)
        return QueryFeatures(features, loop.time() - started, _longest_wait(rows))

    async def start_query(
        self, system: str, source: SupportSource, crops: Sequence[npt.NDArray[np.uint8]], deadline: float | None = None
    ) -> QueryFeatures | QueryCrops:
        """Does what of a query can be done before the support's tokens are there.

        That is its backbone pass. But where the tokens are in the cache, and one model takes crops and tokens, there
        is nothing to wait for, and the features need not leave the engine.

        Args:
            system: a system of the manifest.
            source: the support, as for `support_tokens`.
            crops: as for `query_features`.
            deadline: event loop time by which they are needed.

        Raises:
            DeadlineError, QueueFullError, EngineError: from the runner.
        """
        model = self._runner.query_model(system)
        if model is not None and self.has_tokens(system, source):
            return QueryCrops(tuple(crops), model)
        return await self.query_features(system, crops, deadline)

    async def estimate(
        self,
        system: str,
        support: SupportTokens,
        queries: QueryFeatures | QueryCrops,
        deadline: float | None = None,
        *,
        similarity: bool = False,
        proposals: bool = False,
        found: PartialCallback | None = None,
    ) -> Estimates:
        """Locates the keypoints of a support in query crops.

        Args:
            system: the system that both were computed for.
            support: from `support_tokens`.
            queries: from `start_query` or `query_features`.
            deadline: event loop time by which the answer is needed.
            similarity: also return similarity maps.
            proposals: also return the keypoints before refinement.
            found: not used: all keypoints are found at once.

        Raises:
            DeadlineError, QueueFullError, EngineError: from the runner.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        if isinstance(queries, QueryCrops):
            model, inputs = queries.model, [{"image": crop} for crop in queries.crops]
        else:
            model = self._systems[system].components["pose_decoder"]
            inputs = [{"features": features} for features in queries.features]
        outputs = ["keypoints", "scores"] + ["similarity"] * similarity + ["proposals"] * proposals
        shared = {"support_tokens": support.tokens, "mask": support.mask, "adjacency": support.adjacency}
        rows = await all_of(self._runner.submit(model, own | shared, outputs, deadline) for own in inputs)
        located = support.located
        estimates = tuple(_estimate(row, located) for row in rows)
        return Estimates(estimates, loop.time() - started, _longest_wait(rows))

    def forget(self, key: str) -> None:
        """Drops what was computed from a support, for every system: it has been deleted."""
        self._supports.invalidate(key)

    def known(self) -> set[str]:
        """Keys of the supports of which something is kept, or being computed."""
        return {key for key, _ in self._supports.known()}


def _longest_wait(rows: Sequence[BatchResult]) -> float:
    return max((row.waited for row in rows), default=0.0)


def _estimate(row: BatchResult, located: npt.NDArray[np.bool_]) -> Estimate:
    """Cuts the padding off what the pose decoder says of one crop."""
    outputs = {name: np.asarray(array[: len(located)], dtype=np.float32) for name, array in row.outputs.items()}
    return Estimate(located=located, **outputs)
