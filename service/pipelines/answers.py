"""What was computed → the messages that say so, in the query image's own coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration

from cape.geometry import Crop
from cape.support import Modality
from cape.v1 import image_pb2, modality_pb2, pose_service_pb2
from service.errors import InvalidFieldError
from service.pipelines.base import Estimate, Estimates, PartialEstimate, SupportTrace

MODEL_PREFIX = "models/"

MODALITIES: dict[Modality, modality_pb2.Modality.ValueType] = {
    "image": modality_pb2.MODALITY_IMAGE,
    "text": modality_pb2.MODALITY_TEXT,
}


def pose_instance(
    names: Sequence[str],
    crop: Crop,
    estimate: Estimate,
    box: image_pb2.BoundingBox,
    scale: npt.NDArray[np.float64],
    image_size: tuple[int, int],
) -> pose_service_pb2.PoseInstance:
    """Writes the keypoints found in one crop.

    Args:
        names: of the K keypoints.
        crop: where the crop lies in the image.
        estimate: what was found in it.
        box: what to report as the box that was looked into.
        scale: [2], factors on x and y in pixels.
        image_size: width and height of the upright image, in pixels.
    """
    pixels = crop.to_image(estimate.keypoints)
    outside = np.any((pixels < 0) | (pixels > np.asarray(image_size)), axis=-1).tolist()
    points, scores = (pixels * scale).tolist(), estimate.scores.tolist()
    located = estimate.located.tolist()
    proposals = None if estimate.proposals is None else (crop.to_image(estimate.proposals) * scale).tolist()
    square = image_pb2.BoundingBox(x=crop.left, y=crop.top, width=crop.side, height=crop.side)
    instance = pose_service_pb2.PoseInstance(box=box, crop=square)
    for index, name in enumerate(names):
        if not located[index]:
            instance.keypoints.add(name=name)
            continue
        x, y = points[index]
        keypoint = instance.keypoints.add(
            name=name, located=True, x=x, y=y, score=scores[index], outside_image=outside[index]
        )
        if proposals is not None:
            keypoint.proposal.x, keypoint.proposal.y = proposals[index]
        if estimate.similarity is not None:
            similarity = estimate.similarity[index]
            keypoint.similarity_map.height, keypoint.similarity_map.width = similarity.shape
            keypoint.similarity_map.values.extend(similarity.ravel().tolist())
    return instance


def provenance(
    model: str, version: str, modalities: Sequence[Modality], trace: SupportTrace
) -> pose_service_pb2.Provenance:
    """What an answer was made from.

    Args:
        model: 'models/…'.
        version: of the model.
        modalities: what of the support was used.
        trace: how its tokens were got.
    """
    return pose_service_pb2.Provenance(
        model=model,
        model_version=version,
        modalities=[MODALITIES[modality] for modality in modalities],
        support_cache_hit=trace.cache_hit,
        texts=trace.texts,
        text_cache_hits=trace.text_cache_hits,
    )


def duration(seconds: float) -> Duration:
    """Seconds as a message."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


class AnswerRoom:
    """Bytes that the answers in one message may take together."""

    def __init__(self, max_bytes: int) -> None:
        """Starts with all of `max_bytes` free."""
        self._max_bytes = max_bytes
        self._free = max_bytes

    def take(self, size: int) -> None:
        """Reserves room for an answer of at most `size` bytes, before it is computed.

        Raises:
            InvalidFieldError: field 'boxes', the message would become too large.
        """
        if size > self._free:
            raise InvalidFieldError(
                "boxes",
                f"an answer of up to {size:,} bytes, with {self._free:,} of {self._max_bytes:,} left in the message; "
                "ask for fewer boxes, fewer items or no similarity maps",
            )
        self._free -= size


class AnswerWriter:
    """Writes estimates as messages, in the coordinate space that a request asks for."""

    def __init__(
        self,
        request: pose_service_pb2.EstimatePoseRequest,
        names: Sequence[str],
        crops: Sequence[Crop],
        width: int,
        height: int,
    ) -> None:
        """Takes the request, names of the K keypoints, one crop per box, and the size of the upright image."""
        whole = image_pb2.BoundingBox(x=0, y=0, width=width, height=height)
        self._boxes = pixel_boxes(request, width, height) or [whole]
        self._size = width, height
        self._names = names
        self._crops = crops
        normalized = request.options.coordinate_space == pose_service_pb2.COORDINATE_SPACE_NORMALIZED
        self._scale = 1 / np.array([width, height]) if normalized else np.ones(2)

    def instances(self, estimates: Estimates) -> list[pose_service_pb2.PoseInstance]:
        """All keypoints of every box."""
        return [
            pose_instance(self._names, crop, estimate, box, self._scale, self._size)
            for crop, estimate, box in zip(self._crops, estimates.estimates, self._boxes, strict=True)
        ]

    def partial_instances(self, some: Sequence[PartialEstimate]) -> list[pose_service_pb2.PoseInstance]:
        """Some keypoints, of every box those that are there."""
        instances = [pose_service_pb2.PoseInstance(box=box) for box in self._boxes]
        for part in some:
            names = [self._names[index] for index in part.keypoints]
            crop, box = self._crops[part.crop], self._boxes[part.crop]
            instances[part.crop] = pose_instance(names, crop, part.estimate, box, self._scale, self._size)
        return instances


def pixel_boxes(
    request: pose_service_pb2.EstimatePoseRequest, width: int, height: int
) -> Sequence[image_pb2.BoundingBox]:
    """The boxes of a request in pixels of an image of `width` × `height`."""
    if request.options.box_space != pose_service_pb2.COORDINATE_SPACE_NORMALIZED:
        return request.boxes
    return [
        image_pb2.BoundingBox(x=box.x * width, y=box.y * height, width=box.width * width, height=box.height * height)
        for box in request.boxes
    ]
