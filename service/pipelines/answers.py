"""What was computed → the messages that say so, in the query image's own coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration

from cape.geometry import Crop
from cape.support import Modality
from cape.v1 import image_pb2, modality_pb2, pose_service_pb2
from service.pipelines.base import Estimate, SupportTrace

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
