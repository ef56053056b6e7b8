"""What every pipeline answers, and what is asked of one.

A repository's systems find keypoints in one of two ways (`pipeline` in its manifest): by tokens that are made of a
support and compared with the query (`service.pipelines.support_tokens`), or by questions to a language model
(`service.pipelines.language_model`). What comes before and after is the same for both: requests, images, batches,
errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from cape.support import Modality
from service.supports.store import SupportSource

Float: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SupportTrace:
    """How the tokens of a support were obtained.

    Attributes:
        cache_hit: the tokens were cached; neither images nor texts were encoded.
        texts: number of texts that were needed; 0 on a cache hit.
        text_cache_hits: of those, the number whose embedding was cached.
        queue_seconds: waiting for the engine, along the path that waited longest; 0 on a cache hit.
    """

    cache_hit: bool
    texts: int = 0
    text_cache_hits: int = 0
    queue_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """The keypoints found in one crop.

    Attributes:
        keypoints: float32 [K, 2], x and y as fractions of the crop.
        scores: float32 [K], 0–1.
        located: bool [K]; where False the support says nothing of the keypoint, and its rows mean nothing.
        similarity: float32 [K, H, W], raw similarity maps, if asked for.
        proposals: float32 [K, 2], keypoints before refinement, if asked for.
    """

    keypoints: Float
    scores: Float
    located: npt.NDArray[np.bool_]
    similarity: Float | None = None
    proposals: Float | None = None


@dataclass(frozen=True, slots=True)
class Estimates:
    """The answer to a query.

    Attributes:
        estimates: one per crop, in the query's order.
        seconds: what finding them took, waiting included; for `QueryCrops`, the image backbone too.
        queue_seconds: of those, waiting for the engine (the longest wait of a crop).
    """

    estimates: tuple[Estimate, ...]
    seconds: float
    queue_seconds: float


@dataclass(frozen=True, slots=True)
class PartialEstimate:
    """Some keypoints of one crop, found before the others.

    Attributes:
        crop: index of the crop.
        keypoints: which of the support's they are.
        estimate: of these alone, in the same order.
    """

    crop: int
    keypoints: tuple[int, ...]
    estimate: Estimate


PartialCallback: TypeAlias = Callable[[Sequence[PartialEstimate]], None]
"""Is told of keypoints that were found while others are still looked for; must not keep anybody waiting."""


class UsedSupport(Protocol):
    """A support as a pipeline takes it."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What of the support is used."""


class StartedQuery(Protocol):
    """Query crops of which a pipeline has done what needs no support."""

    @property
    def seconds(self) -> float:
        """What that took."""

    @property
    def queue_seconds(self) -> float:
        """Of those, waiting for the engine."""


Support = TypeVar("Support", bound=UsedSupport)
Query = TypeVar("Query", bound=StartedQuery)


class Pipeline(Protocol[Support, Query]):
    """Finds keypoints; `deadline` is an event loop time by which the result is needed, None for never.

    Every method raises DeadlineError, QueueFullError and EngineError from the runner.
    """

    @property
    def has_maps(self) -> bool:
        """Whether there are similarity maps and proposals to ask for."""

    async def support_tokens(
        self, system: str, source: SupportSource, deadline: float | None = None
    ) -> tuple[Support, SupportTrace]:
        """Makes of a support what queries of it share, or finds it in a cache.

        Raises:
            MissingModalityError: the support lacks what the system needs.
            ServiceError: whatever else is wrong with the support.
        """

    def has_tokens(self, system: str, source: SupportSource) -> bool:
        """Whether `support_tokens` would find them in the cache."""

    async def start_query(
        self, system: str, source: SupportSource, crops: Sequence[npt.NDArray[np.uint8]], deadline: float | None = None
    ) -> Query:
        """Does what of a query can be done beside `support_tokens`.

        Args:
            system: a system of the manifest.
            source: the support.
            crops: RGB, uint8 [size, size, 3] each, with the manifest's image_size.
            deadline: when it is needed.
        """

    async def estimate(
        self,
        system: str,
        support: Support,
        queries: Query,
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
            queries: from `start_query`.
            deadline: when it is needed.
            similarity, proposals: return them too; only where `has_maps`.
            found: is told of keypoints as they are found, where they are not all found at once.
        """

    def forget(self, key: str) -> None:
        """Drops what was made of a support, for every system: it has been deleted."""

    def known(self) -> set[str]:
        """Keys of the supports of which something is kept, or being computed."""
