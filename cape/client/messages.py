"""Converts between the messages of cape.v1 and the client's types. Pure functions, no network."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration

from cape.client.answers import (
    LatencyPercentiles,
    ModelInfo,
    ModelPerformance,
    PaperFigures,
    PoseEstimate,
    PoseInstance,
    Provenance,
    Query,
    Timing,
)
from cape.client.errors import CapeError, error_from_status
from cape.support import (
    Box,
    ImageSource,
    KeypointDefinition,
    Modality,
    RegisteredSupport,
    SupportDefinition,
    SupportExample,
)
from cape.v1 import (
    image_pb2,
    modality_pb2,
    model_service_pb2,
    pose_service_pb2,
    support_pb2,
    support_service_pb2,
)

_MODALITIES: dict[Modality, modality_pb2.Modality.ValueType] = {
    "image": modality_pb2.MODALITY_IMAGE,
    "text": modality_pb2.MODALITY_TEXT,
}
_MODALITY_NAMES = {value: name for name, value in _MODALITIES.items()}


def image_message(image: ImageSource) -> image_pb2.Image:
    """Converts an image. Files and bytes are sent unchanged, arrays as raw pixels.

    Args:
        image: path, encoded bytes, or RGB uint8 [H, W, 3].

    Raises:
        OSError: the file cannot be read.
        ValueError: an array that is not RGB uint8 [H, W, 3].
        TypeError: any other type.
    """
    if isinstance(image, bytes):
        return image_pb2.Image(encoded=image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image: an array must be RGB, uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        height, width = image.shape[:2]
        return image_pb2.Image(raw=image_pb2.RawImage(height=height, width=width, rgb=image.tobytes()))
    if not hasattr(image, "__fspath__") and not isinstance(image, str):
        raise TypeError(f"image: a path, bytes or an array, not {type(image).__name__}")
    return image_pb2.Image(encoded=Path(image).read_bytes())


def support_message(support: SupportDefinition) -> support_pb2.Support:
    """Converts a support, with the pixels of its examples.

    Raises:
        OSError: an example's file cannot be read.
        ValueError: an example has no image, or an array of the wrong shape; names the field.
    """
    message = support_pb2.Support(
        category=support.category,
        keypoints=[
            support_pb2.KeypointDefinition(name=keypoint.name, description=keypoint.description)
            for keypoint in support.keypoints
        ],
        skeleton=[support_pb2.SkeletonEdge(start=start, end=end) for start, end in support.skeleton],
        modalities=[_MODALITIES[modality] for modality in support.modalities],
    )
    for index, example in enumerate(support.examples):
        if example.image is None:
            raise ValueError(f"examples[{index}].image: missing; fetch the support with its images to send it on")
        keypoints, visible = np.asarray(example.keypoints), np.asarray(example.visible)
        if keypoints.shape != (*visible.shape, 2) or visible.ndim != 1:
            raise ValueError(
                f"examples[{index}].keypoints: [K, 2] with visible [K], not {list(keypoints.shape)}"
                f" with {list(visible.shape)}"
            )
        message.examples.add(
            image=image_message(example.image),
            box=None if example.box is None else _box_message(example.box),
            keypoints=[
                support_pb2.ExampleKeypoint(x=float(x), y=float(y))
                if seen
                else support_pb2.ExampleKeypoint(hidden=True)
                for (x, y), seen in zip(keypoints, visible, strict=True)
            ],
        )
    return message


def estimate_request(query: Query) -> pose_service_pb2.EstimatePoseRequest:
    """Converts a query. Raises like `image_message` and `support_message`."""
    space = (
        pose_service_pb2.COORDINATE_SPACE_NORMALIZED if query.normalized else pose_service_pb2.COORDINATE_SPACE_PIXELS
    )
    request = pose_service_pb2.EstimatePoseRequest(
        image=image_message(query.image),
        boxes=[_box_message(box) for box in query.boxes or ()],
        model=query.model,
        options=pose_service_pb2.EstimatePoseOptions(
            coordinate_space=space,
            include_similarity_maps=query.similarity_maps,
            include_proposals=query.proposals,
            partial_answers=query.partial_answers,
            find_box=query.find_box,
        ),
    )
    if isinstance(query.support, str):
        request.support = query.support
    else:
        request.inline_support.CopyFrom(support_message(query.support))
    return request


def batch_request(queries: Iterable[Query]) -> pose_service_pb2.BatchEstimatePoseRequest:
    """Converts a batch of queries. Raises like `estimate_request`."""
    return pose_service_pb2.BatchEstimatePoseRequest(requests=[estimate_request(query) for query in queries])


def stream_request(index: int, query: Query) -> pose_service_pb2.StreamEstimatePoseRequest:
    """Converts a query of a stream; its position becomes the id. Raises like `estimate_request`."""
    return pose_service_pb2.StreamEstimatePoseRequest(request_id=str(index), request=estimate_request(query))


def get_support_request(name: str, images: bool) -> support_service_pb2.GetSupportRequest:
    """Makes the request for a support, with or without the pixels of its examples."""
    view = support_service_pb2.SUPPORT_VIEW_FULL if images else support_service_pb2.SUPPORT_VIEW_BASIC
    return support_service_pb2.GetSupportRequest(name=name, view=view)


def pose_estimate(response: pose_service_pb2.EstimatePoseResponse, *, partial: bool = False) -> PoseEstimate:
    """Converts a complete or partial response."""
    provenance, timing = response.provenance, response.timing
    return PoseEstimate(
        instances=tuple(_instance(instance) for instance in response.instances),
        provenance=Provenance(
            model=provenance.model,
            model_version=provenance.model_version,
            modalities=_modalities(provenance.modalities),
            support_cache_hit=provenance.support_cache_hit,
            texts=provenance.texts,
            text_cache_hits=provenance.text_cache_hits,
        ),
        timing=Timing(
            total=_seconds(timing.total),
            decode=_seconds(timing.decode),
            prepare=_seconds(timing.prepare),
            support=_seconds(timing.support),
            backbone=_seconds(timing.backbone),
            decoder=_seconds(timing.decoder),
            queue=_seconds(timing.queue),
        ),
        partial=partial,
    )


def pose_result(result: pose_service_pb2.EstimatePoseResult) -> PoseEstimate | CapeError:
    """Converts a batch or stream item to an answer or an error."""
    if result.WhichOneof("result") == "error":
        return error_from_status(result.error)
    return pose_estimate(result.response)


def stream_answer(message: pose_service_pb2.StreamEstimatePoseResponse) -> tuple[int, PoseEstimate | CapeError]:
    """Converts a stream response to the query's position and its answer, partial answer or error."""
    position, result = int(message.request_id), message.result
    if message.partial:
        return position, pose_estimate(result.response, partial=True)
    return position, pose_result(result)


def registered_support(message: support_pb2.Support, *, already_existed: bool = False) -> RegisteredSupport:
    """Converts a registered support."""
    definition = SupportDefinition(
        category=message.category,
        keypoints=tuple(KeypointDefinition(keypoint.name, keypoint.description) for keypoint in message.keypoints),
        skeleton=tuple((edge.start, edge.end) for edge in message.skeleton),
        examples=tuple(_example(example) for example in message.examples),
        modalities=_modalities(message.modalities),
    )
    return RegisteredSupport(message.name, message.create_time.ToDatetime(UTC), definition, already_existed)


def model_info(message: model_service_pb2.Model) -> ModelInfo:
    """Converts a model description."""
    return ModelInfo(
        name=message.name,
        system=message.system,
        version=message.version,
        backbone=message.backbone,
        text_encoder=message.text_encoder,
        image_size=message.image_size,
        max_keypoints=message.max_keypoints,
        precision=message.precision,
        required_modalities=_modalities(message.required_modalities),
        optional_modalities=_modalities(message.optional_modalities),
        parity_keypoints=message.parity_keypoints,
        engine=message.engine,
        is_default=message.is_default,
    )


def model_performance(message: model_service_pb2.ModelPerformance) -> ModelPerformance:
    """Converts one model's entry in a performance report."""
    paper = None
    if message.HasField("paper"):
        paper = PaperFigures(_seconds(message.paper.time), message.paper.frames_per_second)
    return ModelPerformance(
        model=message.model,
        start_time=message.start_time.ToDatetime(UTC),
        count=message.count,
        warm=_percentiles(message.warm),
        cold=_percentiles(message.cold),
        frames_per_second=message.frames_per_second,
        paper=paper,
        speed_ratio=message.speed_ratio if message.HasField("speed_ratio") else None,
    )


def _box_message(box: Box) -> image_pb2.BoundingBox:
    return image_pb2.BoundingBox(x=box.x, y=box.y, width=box.width, height=box.height)


def _box(message: image_pb2.BoundingBox) -> Box:
    return Box(message.x, message.y, message.width, message.height)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos * 1e-9


def _modalities(values: Iterable[modality_pb2.Modality.ValueType]) -> tuple[Modality, ...]:
    """Converts the known modalities; skips others, which a newer server may send."""
    return tuple(_MODALITY_NAMES[value] for value in values if value in _MODALITY_NAMES)


def _percentiles(message: model_service_pb2.LatencyPercentiles) -> LatencyPercentiles:
    return LatencyPercentiles(message.count, _seconds(message.p50), _seconds(message.p95), _seconds(message.p99))


def _instance(message: pose_service_pb2.PoseInstance) -> PoseInstance:
    found = message.keypoints
    proposals = maps = None
    if any(keypoint.HasField("proposal") for keypoint in found):
        proposals = np.full((len(found), 2), np.nan, dtype=np.float32)
        for row, keypoint in zip(proposals, found, strict=True):
            if keypoint.HasField("proposal"):
                row[:] = keypoint.proposal.x, keypoint.proposal.y
    shapes = {
        (keypoint.similarity_map.height, keypoint.similarity_map.width)
        for keypoint in found
        if keypoint.HasField("similarity_map")
    }
    if shapes:
        height, width = shapes.pop()
        maps = np.full((len(found), height, width), np.nan, dtype=np.float32)
        for plane, keypoint in zip(maps, found, strict=True):
            if keypoint.HasField("similarity_map"):
                plane[:] = np.reshape(keypoint.similarity_map.values, (height, width))
    return PoseInstance(
        box=_box(message.box),
        names=tuple(keypoint.name for keypoint in found),
        keypoints=_points([(keypoint.x, keypoint.y) for keypoint in found]),
        scores=np.array([keypoint.score for keypoint in found], dtype=np.float32),
        located=np.array([keypoint.located for keypoint in found], dtype=np.bool_),
        proposals=proposals,
        similarity_maps=maps,
    )


def _example(message: support_pb2.SupportExample) -> SupportExample:
    return SupportExample(
        image=_image(message.image),
        keypoints=_points([(keypoint.x, keypoint.y) for keypoint in message.keypoints]),
        visible=np.array([not keypoint.hidden for keypoint in message.keypoints], dtype=np.bool_),
        box=_box(message.box) if message.HasField("box") else None,
    )


def _image(message: image_pb2.Image) -> ImageSource | None:
    match message.WhichOneof("source"):
        case "encoded":
            return message.encoded
        case "raw":
            raw = message.raw
            return np.frombuffer(raw.rgb, dtype=np.uint8).reshape(raw.height, raw.width, 3)
    return None


def _points(points: list[tuple[float, float]]) -> npt.NDArray[np.float32]:
    return np.array(points, dtype=np.float32).reshape(len(points), 2)
