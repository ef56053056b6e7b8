"""One query, from the request to the answer, whichever method it came by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from cape.geometry import Crop
from cape.manifest import Manifest
from cape.v1 import pose_service_pb2
from service.access.callers import current_caller
from service.errors import InvalidFieldError, NotFoundError, QueueFullError
from service.images.crops import query_crops
from service.images.decoding import DecodePool
from service.images.reading import ImageLimits, check_image, open_image
from service.pipelines.answers import (
    MODEL_PREFIX,
    AnswerRoom,
    AnswerWriter,
    duration,
    pixel_boxes,
    provenance,
)
from service.pipelines.base import Estimates, PartialEstimate, Pipeline, StartedQuery, SupportTrace, UsedSupport
from service.pipelines.deadlines import due
from service.pipelines.found_box import find_box
from service.process.tasks import together
from service.supports.store import Supports, SupportSource
from service.supports.validation import check_box
from service.telemetry.call_facts import query_answered
from service.telemetry.metrics import STAGES, Metrics, Stage
from service.telemetry.performance import PerformanceMonitor
from service.telemetry.spans import describe_span, record_span, span

MAX_RAW_IN_LOOP = 2**19
"""Bytes of bare pixels that are cropped in the event loop, in less than a millisecond: a thread would cost as much."""

KEYPOINT_BYTES, MAP_BYTES, INSTANCE_BYTES = 64, 32, 96
"""Upper bounds of what protobuf takes for a keypoint without its name, a map without its values, and two boxes."""

MAP_WEIGHT = 10
"""Keypoints that take as long to write as one with a similarity map."""

MAX_WEIGHT_IN_LOOP = 700
"""Keypoints written in the event loop: 2 to 4 ms. More are written in a thread."""

Decoded = TypeVar("Decoded")

Partial: TypeAlias = Callable[[pose_service_pb2.EstimatePoseResponse], None]
"""Takes a message of keypoints that were found while others are still looked for, to be sent when that is possible."""


@dataclass(frozen=True, slots=True)
class _Query:
    """A query image, and what a pipeline has done with it so far.

    Attributes:
        height, width: of the upright image, in pixels.
        crops: one per box.
        features: what the pipeline made of the crops.
        decode, prepare: seconds that these stages took, waiting for a thread included in the first.
    """

    height: int
    width: int
    crops: list[Crop]
    features: StartedQuery
    decode: float
    prepare: float


class Estimation:
    """Answers queries; knows messages, but nothing of calls and statuses."""

    def __init__(
        self,
        manifest: Manifest,
        pipelines: Mapping[str, Pipeline[Any, Any]],
        supports: Supports,
        limits: ImageLimits,
        *,
        default_system: str,
        max_boxes: int,
        pool: DecodePool,
        metrics: Metrics,
        performance: PerformanceMonitor,
        max_answer_bytes: int,
        lookup_seconds: float,
    ) -> None:
        """Puts the parts together.

        Args:
            manifest: what is served.
            pipelines: of every system, what runs it.
            supports: finds supports.
            limits: how large an image may be.
            default_system: answers requests that name no model.
            max_boxes: most boxes of a request.
            pool: threads that decode images.
            metrics: told how long the stages took.
            performance: told how long each query took.
            max_answer_bytes: largest message of answers.
            lookup_seconds: time limit for finding a support, for requests without a deadline.
        """
        self._manifest = manifest
        self._pipelines = pipelines
        self._supports = supports
        self._limits = limits
        self._default_system = default_system
        self._max_boxes = max_boxes
        self._pool = pool
        self._metrics = metrics
        self._performance = performance
        self._max_answer_bytes = max_answer_bytes
        self._lookup_seconds = lookup_seconds
        self._versions = {system: manifest.version(system) for system in manifest.systems}

    async def answer(
        self,
        request: pose_service_pb2.EstimatePoseRequest,
        deadline: float | None,
        partial: Partial | None = None,
        room: AnswerRoom | None = None,
    ) -> pose_service_pb2.EstimatePoseResponse:
        """Answers one query, for which the object's box is found first where the request asks for that.

        Arguments and errors are those of `answer_boxes`.
        """
        options = request.options
        searches = options.find_box and not request.boxes and self._pipelines[self._system(request.model)].has_maps
        if not searches:
            return await self.answer_boxes(request, deadline, partial, room)
        started = asyncio.get_running_loop().time()
        with span("find_box"):
            found = await find_box(request, lambda query: self.answer_boxes(query, deadline))
        query = pose_service_pb2.EstimatePoseRequest()
        query.CopyFrom(request)
        query.options.box_space = pose_service_pb2.COORDINATE_SPACE_PIXELS
        query.boxes.append(found.box)
        response = await self.answer_boxes(query, deadline, partial, room)
        response.instances[0].box_found = True
        response.instances[0].box_confidence = found.confidence
        response.timing.total.CopyFrom(duration(asyncio.get_running_loop().time() - started))
        return response

    async def answer_boxes(
        self,
        request: pose_service_pb2.EstimatePoseRequest,
        deadline: float | None,
        partial: Partial | None = None,
        room: AnswerRoom | None = None,
    ) -> pose_service_pb2.EstimatePoseResponse:
        """Answers one query: the keypoints in each of its boxes, or in the whole image.

        Args:
            request: from a caller, unchecked.
            deadline: event loop time by which the answer is due; None where the server takes its time, as for streams.
            room: of the message that the answer is part of; None: a message of its own.
            partial: takes keypoints as they are found, where the request asks for that; None where an answer is one
                message.

        Raises:
            InvalidFieldError: field paths relative to the request.
            ServiceError: any other of `service.errors`.
        """
        started = asyncio.get_running_loop().time()
        async with due(deadline):
            system = self._system(request.model)
            pipeline = self._pipelines[system]
            self._check(request)
            _check_options(request.options, system, pipeline, streams=partial is not None)
            source = await self._source(request, deadline or started + self._lookup_seconds)
            (room or self.answer_room()).take(self._answer_bytes(request, system, source))
            if pipeline.has_tokens(system, source):
                # Nothing to wait for: no tasks of their own.
                support, trace, support_seconds = await self._support(system, source, deadline)
                query = await self._query(system, source, request, deadline)
            else:
                (support, trace, support_seconds), query = await together(
                    self._support(system, source, deadline), self._query(system, source, request, deadline)
                )
            writer = AnswerWriter(request, source.definition.keypoint_names, query.crops, query.width, query.height)

            def found(some: Sequence[PartialEstimate]) -> None:
                assert partial is not None
                partial(pose_service_pb2.EstimatePoseResponse(instances=writer.partial_instances(some)))

            options = request.options
            with span("decoder"):
                estimates = await pipeline.estimate(
                    system,
                    support,
                    query.features,
                    deadline,
                    similarity=options.include_similarity_maps,
                    proposals=options.include_proposals,
                    found=found if options.partial_answers else None,
                )
        response = pose_service_pb2.EstimatePoseResponse(
            instances=await self._written(writer, estimates, len(source.definition.keypoint_names), options),
            provenance=provenance(f"{MODEL_PREFIX}{system}", self._versions[system], support.modalities, trace),
            image_size=pose_service_pb2.ImageSize(width=query.width, height=query.height),
        )
        stages: dict[Stage, float] = {
            "decode": query.decode,
            "prepare": query.prepare,
            "support": support_seconds,
            "backbone": query.features.seconds,
            "decoder": estimates.seconds,
            "queue": max(trace.queue_seconds, query.features.queue_seconds) + estimates.queue_seconds,
        }
        for stage in STAGES:
            self._metrics.stage_finished(stage, stages[stage])
            getattr(response.timing, stage).CopyFrom(duration(stages[stage]))
        self._metrics.instances_answered(system, len(query.crops))
        query_answered(system, len(query.crops), stages, cached=trace.cache_hit)
        total = asyncio.get_running_loop().time() - started
        response.timing.total.CopyFrom(duration(total))
        self._performance.record(system, total, instances=len(query.crops), warm=trace.cache_hit)
        return response

    def _system(self, model: str) -> str:
        """The system that a request means."""
        if not model:
            return self._default_system
        system = model.removeprefix(MODEL_PREFIX)
        if not model.startswith(MODEL_PREFIX) or not system:
            raise InvalidFieldError("model", f"{model[:50]!r} is not the name of a model, '{MODEL_PREFIX}…'")
        if system not in self._manifest.systems:
            raise NotFoundError("cape.v1.Model", model[:200], f"there is no model {model[:200]!r}")
        return system

    def _check(self, request: pose_service_pb2.EstimatePoseRequest) -> None:
        """Checks what costs nothing to check."""
        try:
            check_image(request.image, self._limits)
        except InvalidFieldError as error:
            raise error.within("image") from None
        if len(request.boxes) > self._max_boxes:
            raise InvalidFieldError("boxes", f"{len(request.boxes)}; at most {self._max_boxes}")
        for index, box in enumerate(request.boxes):
            try:
                check_box(box)
            except InvalidFieldError as error:
                raise error.within(f"boxes[{index}]") from None
        for field in ("coordinate_space", "box_space"):
            space = getattr(request.options, field)
            if space not in pose_service_pb2.CoordinateSpace.values():
                raise InvalidFieldError(f"options.{field}", f"{space} is not a coordinate space")
        if request.options.priority not in pose_service_pb2.Priority.values():
            raise InvalidFieldError("options.priority", f"{request.options.priority} is not a priority")

    def answer_room(self) -> AnswerRoom:
        """Room of one message of answers."""
        return AnswerRoom(self._max_answer_bytes)

    def _answer_bytes(self, request: pose_service_pb2.EstimatePoseRequest, system: str, source: SupportSource) -> int:
        """Upper bound of an answer's size, known before anything is computed."""
        names = source.definition.keypoint_names
        maps = 0
        spec = self._manifest.support_systems.get(system)
        if request.options.include_similarity_maps and spec is not None:
            maps = 4 * spec.similarity_size**2 + MAP_BYTES
        keypoint = KEYPOINT_BYTES + maps
        texts = sum(len(name.encode()) for name in names)
        return max(1, len(request.boxes)) * (INSTANCE_BYTES + keypoint * len(names) + texts)

    async def _written(
        self,
        writer: AnswerWriter,
        estimates: Estimates,
        keypoints: int,
        options: pose_service_pb2.EstimatePoseOptions,
    ) -> list[pose_service_pb2.PoseInstance]:
        """The instances of an answer. Large answers are written in a thread, so that others do not wait."""
        weight = len(estimates.estimates) * keypoints * (MAP_WEIGHT if options.include_similarity_maps else 1)
        if weight <= MAX_WEIGHT_IN_LOOP:
            return writer.instances(estimates)
        return await asyncio.to_thread(writer.instances, estimates)

    async def _source(self, request: pose_service_pb2.EstimatePoseRequest, deadline: float) -> SupportSource:
        match request.WhichOneof("support_source"):
            case "support":
                return await self._supports.registered(current_caller().tenant, request.support, deadline)
            case "inline_support":
                return await self._supports.inline(current_caller().tenant, request.inline_support)
            case _:
                raise InvalidFieldError("support", "missing: name a support, or send an inline_support")

    async def _support(
        self, system: str, source: SupportSource, deadline: float | None
    ) -> tuple[UsedSupport, SupportTrace, float]:
        """The tokens of a support, how they were got, and in how many seconds."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        with span("support"):
            tokens, trace = await self._pipelines[system].support_tokens(system, source, deadline)
            describe_span({"capeserve.support_cache_hit": trace.cache_hit})
        return tokens, trace, loop.time() - started

    async def _query(
        self,
        system: str,
        source: SupportSource,
        request: pose_service_pb2.EstimatePoseRequest,
        deadline: float | None,
    ) -> _Query:
        """Decodes and crops the query image and starts on the crops."""
        loop = asyncio.get_running_loop()
        started = loop.time()

        def decode_and_crop() -> tuple[int, int, list[Crop], list[np.ndarray], float]:
            with _field("image"):
                image = open_image(request.image, self._limits)
            try:
                boxes = pixel_boxes(request, image.width, image.height)
                crops = query_crops(boxes, image, self._manifest)
                with _field("image"):
                    pixels = image.decode(crops)
                decoded = loop.time()
                return image.height, image.width, crops, [pixels.extract(crop) for crop in crops], decoded
            finally:
                image.close()

        if len(request.image.raw.rgb) in range(1, MAX_RAW_IN_LOOP) and len(request.boxes) <= 1:
            height, width, crops, pixels, decoded = decode_and_crop()
        else:
            height, width, crops, pixels, decoded = await self._decoded(decode_and_crop)
        prepared = loop.time()
        record_span("decode", prepared - started, decoded - started)
        record_span("prepare", prepared - decoded, prepared - decoded)
        with span("backbone"):
            features = await self._pipelines[system].start_query(system, source, pixels, deadline)
        return _Query(height, width, crops, features, decoded - started, prepared - decoded)

    async def _decoded(self, decode: Callable[[], Decoded]) -> Decoded:
        """Runs `decode` in a thread, for no longer than an image may take.

        Raises:
            InvalidFieldError: field 'image.encoded', it takes too long.
            QueueFullError: no thread came free in that time.
        """
        future: Future[Decoded] = self._pool.submit(decode)
        waiting = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait((waiting,), timeout=self._pool.max_seconds)
        except asyncio.CancelledError:
            waiting.cancel()
            raise
        if done:
            return waiting.result()
        if future.cancel():
            raise QueueFullError(self._pool.max_seconds)
        seconds = f"{self._pool.max_seconds:g} s"
        raise InvalidFieldError("image.encoded", f"decoding takes longer than {seconds}; send a simpler image")


def _check_options(
    options: pose_service_pb2.EstimatePoseOptions, system: str, pipeline: Pipeline[Any, Any], *, streams: bool
) -> None:
    """Refuses to leave out in silence what was asked for."""
    if not pipeline.has_maps:
        for option, what in (("include_similarity_maps", "similarity maps"), ("include_proposals", "proposals")):
            if getattr(options, option):
                raise InvalidFieldError(f"options.{option}", f"model {system} has no {what}")
    if options.partial_answers and not streams:
        raise InvalidFieldError("options.partial_answers", "an answer here is one message; use StreamEstimatePose")


@contextmanager
def _field(name: str) -> Iterator[None]:
    """Puts a field's name before the paths of what is wrong in it."""
    try:
        yield
    except InvalidFieldError as error:
        raise error.within(name) from None
