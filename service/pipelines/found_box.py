"""Finds the box of an object in an image, for requests that give none.

Passes over the whole image and, where that is not convincing, over overlapping windows at two scales in one batch. A
window that shows the object gives keypoints that stay where they are when a box around them is looked into again; a
window that shows a part of it does not. So candidates are ranked by confidence and that agreement.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cape.v1 import image_pb2, pose_service_pb2

Float = npt.NDArray[np.float64]
Answer = Callable[[pose_service_pb2.EstimatePoseRequest], Awaitable[pose_service_pb2.EstimatePoseResponse]]
"""Answers a request with boxes."""

SCALES = (0.6, 0.4)
"""Sides of the windows ÷ longer side of the image; neighbours overlap by half."""
MARGIN = 0.2
"""Margin of a box around its keypoints ÷ their extent."""
REFINED = 6
"""Windows that are looked into again."""
SURE = 0.75
"""Certainty from which the whole image needs no windows."""
WHOLE_SIDE = 0.8
"""Longer side of a found box ÷ that of the image from which the whole image is taken: a closer look gains nothing."""
WHOLE_IMAGE_BONUS = 1.15
"""Weight of candidates that come from the whole image: windows are tried because it may be too large, and many of them
at once find a false one."""
AGREEMENT_RADIUS = 0.1
"""Distance at which agreement has fallen to 1/e ÷ extent of the keypoints."""


@dataclass(frozen=True, slots=True)
class FoundBox:
    """Where the object is.

    Attributes:
        box: in pixels.
        confidence: 0–1, mean confidence of the keypoints times the root of their agreement.
    """

    box: image_pb2.BoundingBox
    confidence: float


@dataclass(frozen=True, slots=True)
class _View:
    """What was found in one box.

    Attributes:
        box: that was looked into.
        keypoints: float64 [K, 2], pixels, those located.
        scores: float64 [K].
    """

    box: image_pb2.BoundingBox
    keypoints: Float
    scores: Float

    @property
    def confidence(self) -> float:
        return float(self.scores.mean()) if len(self.scores) else 0.0

    def certainty(self, other: _View) -> float:
        """Confidence, weighted by the agreement with a view of another crop."""
        return self.confidence * math.sqrt(self.agreement(other))

    def agreement(self, other: _View) -> float:
        """How far another view has the keypoints in the same places, 0–1; sure keypoints count more."""
        if not len(self.keypoints) or len(self.keypoints) != len(other.keypoints):
            return 0.0
        extent = max(float(np.ptp(self.keypoints, axis=0).max()), 1.0)
        distances = np.hypot(*(self.keypoints - other.keypoints).T) / extent
        weights = self.scores + 1e-6
        return float((weights * np.exp(-((distances / AGREEMENT_RADIUS) ** 2))).sum() / weights.sum())


async def find_box(request: pose_service_pb2.EstimatePoseRequest, answer: Answer) -> FoundBox:
    """Looks for the object of a request without boxes.

    Args:
        request: what is looked for, and where.
        answer: answers requests with boxes; its errors pass.
    """
    query = pose_service_pb2.EstimatePoseRequest()
    query.CopyFrom(request)
    query.options.Clear()
    query.options.priority = request.options.priority
    first = await answer(query)
    size = first.image_size
    whole = _view(first.instances[0])

    async def views(boxes: Sequence[image_pb2.BoundingBox]) -> list[_View]:
        del query.boxes[:]
        query.boxes.extend(boxes)
        return [_view(instance) for instance in (await answer(query)).instances]

    (closer,) = await views([box_around(whole.keypoints, whole.scores, size)])
    candidates = [(whole.certainty(closer), whole), (closer.certainty(whole), closer)]
    certainty, view = max(candidates, key=lambda one: one[0])
    if certainty >= SURE:
        return _found(view, certainty, size)
    windows = await views(window_boxes(size))
    ranked = sorted(windows, key=lambda view: _support_of(view, [*windows, whole]), reverse=True)[:REFINED]
    once = await views([box_around(view.keypoints, view.scores, size) for view in ranked])
    twice = await views([box_around(view.keypoints, view.scores, size) for view in once])
    ranking = [(WHOLE_IMAGE_BONUS * score, score, one) for score, one in candidates]
    for before, after in zip(once, twice, strict=True):
        ranking += [
            (one.certainty(other), one.certainty(other), one) for one, other in ((after, before), (before, after))
        ]
    _, certainty, view = max(ranking, key=lambda one: one[0])
    return _found(view, certainty, size)


def _found(view: _View, certainty: float, size: pose_service_pb2.ImageSize) -> FoundBox:
    if max(view.box.width, view.box.height) >= WHOLE_SIDE * max(size.width, size.height):
        return FoundBox(image_pb2.BoundingBox(x=0, y=0, width=size.width, height=size.height), certainty)
    return FoundBox(view.box, certainty)


def window_boxes(size: pose_service_pb2.ImageSize) -> list[image_pb2.BoundingBox]:
    """Overlapping windows over an image, at each of `SCALES`."""
    boxes = []
    for scale in SCALES:
        side = scale * max(size.width, size.height)
        for y in _centres(size.height, side):
            for x in _centres(size.width, side):
                left, top = max(0.0, x - side / 2), max(0.0, y - side / 2)
                right, bottom = min(size.width, x + side / 2), min(size.height, y + side / 2)
                boxes.append(image_pb2.BoundingBox(x=left, y=top, width=right - left, height=bottom - top))
    return boxes


def box_around(keypoints: Float, scores: Float, size: pose_service_pb2.ImageSize) -> image_pb2.BoundingBox:
    """A box around the confident keypoints, with a margin, inside the image.

    Args:
        keypoints: float64 [K, 2], pixels.
        scores: float64 [K].
        size: of the image.
    """
    whole = image_pb2.BoundingBox(x=0, y=0, width=size.width, height=size.height)
    if not len(keypoints):
        return whole
    sure = scores >= max(0.3, 0.6 * float(np.median(scores)))
    points = keypoints[sure] if sure.sum() >= 2 else keypoints
    low, high = points.min(axis=0), points.max(axis=0)
    margin = MARGIN * float((high - low).max())
    left, top = np.maximum(low - margin, 0.0)
    right, bottom = np.minimum(high + margin, (size.width, size.height))
    # Keypoints in one place, or outside: nothing to look into.
    if min(right - left, bottom - top) < 4:
        return whole
    return image_pb2.BoundingBox(x=left, y=top, width=right - left, height=bottom - top)


def _centres(length: float, side: float) -> list[float]:
    """Centres of windows along one side of the image."""
    if length <= side:
        return [length / 2]
    count = math.ceil((length - side) / (side / 2)) + 1
    return [float(centre) for centre in np.linspace(side / 2, length - side / 2, count)]


def _support_of(view: _View, others: Sequence[_View]) -> float:
    """Confidence of a window, weighted by how far the best other views agree with it."""
    votes = sorted((view.agreement(other) * other.confidence for other in others if other is not view), reverse=True)
    return view.confidence * math.sqrt(float(np.mean(votes[:4])) + 1e-3)


def _view(instance: pose_service_pb2.PoseInstance) -> _View:
    located = [keypoint for keypoint in instance.keypoints if keypoint.located]
    return _View(
        instance.box,
        np.array([(keypoint.x, keypoint.y) for keypoint in located], dtype=np.float64).reshape(-1, 2),
        np.array([keypoint.score for keypoint in located], dtype=np.float64),
    )
