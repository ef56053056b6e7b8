"""Predictions of an exported repository in this process: the service's pipelines without the network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness.engine_choices import EngineChoice
from cape.client.messages import support_message
from cape.evaluation.estimator import EpisodeAnswer, EstimatedPose, EstimationError, QueryObject
from cape.evaluation.kept import Kept
from cape.geometry import Crop
from cape.manifest import Manifest, ManifestError, read_manifest
from cape.modalities import MissingModalityError
from cape.support import SupportDefinition
from service.batching.batcher import Batcher
from service.engines.choice import load_engine
from service.errors import EngineError, InvalidFieldError, ServiceError
from service.errors import MissingModalityError as ServedModalityError
from service.images.reading import ImageLimits
from service.pipelines.base import Pipeline
from service.pipelines.language_model import ImageTokens, LanguageEstimator
from service.pipelines.prompts import prompt_cache
from service.pipelines.support_encoder import SupportEncoder
from service.pipelines.support_tokens import PoseEstimator, QueryFeatures, support_cache
from service.pipelines.texts import embedding_cache, text_embedders
from service.supports.outline import SupportOutline
from service.supports.preparation import prepare_support
from service.supports.prepared_support import PreparedSupport
from service.supports.store import SupportSource
from service.supports.validation import check_support

KEPT_FEATURES = 2**30
"""Bytes of cached backbone features, as for checkpoints."""

TEXT_CACHE = 64 * 2**20

LIMITS = ImageLimits(max_bytes=2**32, max_pixels=2**30)
"""Data sets are trusted, so images may be of any size."""


class ExportedEstimator:
    """An `Estimator` that runs an exported repository.

    Args:
        repository: folder that `capeserve export` wrote.
        system: system of the repository; empty for the first.
        threads: CPU threads of a run; None for one per CPU.
        choice: what runs it.

    Raises:
        EstimationError: the repository cannot be used.
    """

    def __init__(
        self,
        repository: Path,
        system: str = "",
        threads: int | None = None,
        choice: EngineChoice = EngineChoice("onnxruntime"),  # noqa: B008 (immutable)
    ) -> None:
        try:
            self._manifest = read_manifest(repository)
            self._system = system or next(iter(self._manifest.systems))
            if self._system not in self._manifest.systems:
                raise EstimationError(f"{repository}: there is no system {system!r}")
            self._engine = load_engine(
                choice.engine, repository, self._manifest, threads=threads, precision=choice.precision
            )
            self._loop = asyncio.new_event_loop()
            self._loop.run_until_complete(self._start(repository))
        except (ManifestError, EngineError, ValueError) as error:
            raise EstimationError(str(error)) from None
        self._features: Kept[npt.NDArray[np.generic]] = Kept(KEPT_FEATURES, lambda features: features.nbytes)
        self._name = _described(repository, self._manifest, self._system, self._engine.description)

    async def _start(self, repository: Path) -> None:
        """Creates what is bound to the event loop."""
        self._batcher = Batcher(self._engine, self._manifest)
        self._pipeline: Pipeline[Any, Any]
        if self._system in self._manifest.language_systems:
            self._pipeline = LanguageEstimator(repository, self._manifest, self._batcher, prompt_cache(0))
        else:
            embedders = text_embedders(repository, self._manifest, self._batcher, embedding_cache(TEXT_CACHE))
            encoder = SupportEncoder(self._manifest, self._batcher, embedders)
            self._pipeline = PoseEstimator(self._manifest, self._batcher, encoder, support_cache(0))

    @property
    def name(self) -> str:
        """Repository, system, backbone, engine, precision, version."""
        return self._name

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """See `Estimator.estimate`."""
        try:
            return self._loop.run_until_complete(self._estimate(support, queries))
        except ServedModalityError as error:
            raise MissingModalityError(str(error)) from None
        except ServiceError as error:
            raise EstimationError(f"{support.category}: {error}") from None

    def close(self) -> None:
        """Waits for running batches and frees the models."""
        self._loop.run_until_complete(self._batcher.close())
        self._loop.close()
        self._engine.close()

    async def _estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        message = support_message(support)
        check_support(message, self._manifest, LIMITS)
        definition = SupportOutline.of(f"{support.category!r}", message)

        async def load() -> PreparedSupport:
            return prepare_support(message, definition, self._manifest, LIMITS)

        source = SupportSource(definition, load, complaint=lambda error: error)
        support_tokens, _ = await self._pipeline.support_tokens(self._system, source)
        crops = [self._crop(query) for query in queries]
        features = await self._encode(source, queries, crops)
        answers = await self._pipeline.estimate(self._system, support_tokens, features)
        poses = tuple(
            EstimatedPose(crop.to_image(one.keypoints), one.scores, one.located)
            for crop, one in zip(crops, answers.estimates, strict=True)
        )
        return EpisodeAnswer(poses, support_tokens.modalities)

    def _crop(self, query: QueryObject) -> Crop:
        box, size = query.box, self._manifest.image_size
        try:
            return Crop.around(box.x, box.y, box.width, box.height, size=size, padding=self._manifest.box_padding)
        except ValueError as error:
            raise InvalidFieldError("box", str(error)) from None

    def _pixels(self, query: QueryObject, crop: Crop) -> npt.NDArray[np.uint8]:
        """The model's input for a query: RGB, uint8 [size, size, 3]."""
        return crop.extract(query.image)

    async def _encode(
        self, source: SupportSource, queries: Sequence[QueryObject], crops: Sequence[Crop]
    ) -> QueryFeatures | ImageTokens:
        """Backbone features of queries; those of objects seen before come from the cache."""
        features = {query.object_id: self._features.get(query.object_id) for query in queries}
        new = [row for row, query in enumerate(queries) if features[query.object_id] is None]
        pixels = [self._pixels(queries[row], crops[row]) for row in new]
        started = await self._pipeline.start_query(self._system, source, pixels) if new else None
        computed = () if started is None else _arrays(started)
        for row, one in zip(new, computed, strict=True):
            own = one.copy()  # a view would keep the whole batch in memory
            features[queries[row].object_id] = own
            self._features.put(queries[row].object_id, own)
        every = tuple(known for query in queries if (known := features[query.object_id]) is not None)
        if self._system in self._manifest.language_systems:
            return ImageTokens(every, 0.0, 0.0)
        return QueryFeatures(every, 0.0, 0.0)


def _arrays(started: QueryFeatures | ImageTokens) -> tuple[npt.NDArray[np.generic], ...]:
    return started.tokens if isinstance(started, ImageTokens) else started.features


def _described(repository: Path, manifest: Manifest, system: str, engine: str) -> str:
    parts = manifest.systems[system].components.values()
    precision = " and ".join(sorted({manifest.components[part].precision for part in parts}))
    weights = "" if manifest.source.trained else ", random weights"
    backbone = manifest.systems[system].backbone
    return f"{repository.name}: {system}, {backbone}, {engine} {precision}{weights}, version {manifest.version(system)}"
