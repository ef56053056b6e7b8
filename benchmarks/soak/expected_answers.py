"""Generated supports and images, and the answers of an undisturbed server for each pair."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

from cape.client import Client, KeypointDefinition, PoseEstimate, SupportDefinition, SupportExample

TOLERANCE = 1e-3
"""Largest accepted difference of a coordinate, as a fraction of the image's longer side. Batch sizes differ by
rounding, about 1e-5."""

SUPPORTS, IMAGES = 6, 6


@dataclass(frozen=True, slots=True)
class ExpectedAnswers:
    """Supports, images, and the expected answer for each pair.

    Attributes:
        supports: as registered.
        images: encoded files.
        sides: longer side of each image, in pixels.
        keypoints: [K, 2] by (support, image).
    """

    supports: tuple[SupportDefinition, ...]
    images: tuple[bytes, ...]
    sides: tuple[int, ...]
    keypoints: dict[tuple[int, int], npt.NDArray[np.float32]]

    def mistake(self, support: int, image: int, pose: PoseEstimate) -> str:
        """Describes what is wrong with an answer; '' if it is right."""
        if len(pose.instances) != 1:
            return f"{len(pose.instances)} instances"
        (instance,) = pose.instances
        if instance.names != self.supports[support].names:
            return f"keypoints {instance.names}"
        expected = self.keypoints[support, image]
        if instance.keypoints.shape != expected.shape or not np.isfinite(instance.keypoints).all():
            return f"keypoints of shape {instance.keypoints.shape}, or not finite"
        difference = float(np.abs(instance.keypoints - expected).max()) / self.sides[image]
        return f"off by {difference:.2g} of the image's side" if difference > TOLERANCE else ""

    @property
    def least_distance(self) -> float:
        """Smallest distance between the expected answers of two supports for one image, as a fraction of its side.

        Must exceed the tolerance, else a mix-up of two supports would go unnoticed.
        """
        distances = [
            float(np.abs(self.keypoints[one, image] - self.keypoints[other, image]).max()) / self.sides[image]
            for image in range(len(self.images))
            for one, other in product(range(len(self.supports)), repeat=2)
            if one < other
        ]
        return min(distances)


def made_up_support(seed: int) -> SupportDefinition:
    """Generates a support of five keypoints from the seed."""
    random = np.random.default_rng(seed)
    size = 128
    names = [f"point {index} of thing {seed}" for index in range(5)]
    return SupportDefinition(
        category=f"thing {seed}",
        keypoints=tuple(KeypointDefinition(name) for name in names),
        skeleton=((0, 1), (1, 2), (2, 3), (3, 4)),
        examples=(
            SupportExample(
                image=_picture(random, size, size),
                keypoints=random.uniform(8, size - 8, (5, 2)).astype(np.float32),
                visible=np.ones(5, dtype=np.bool_),
            ),
        ),
    )


def record_answers(client: Client, seed: int) -> ExpectedAnswers:
    """Generates supports and images, and records the answers of an undisturbed server."""
    supports = tuple(made_up_support(seed * 1000 + index) for index in range(SUPPORTS))
    images, sides = [], []
    for index in range(IMAGES):
        random = np.random.default_rng((seed, index))
        height, width = (int(side) for side in random.integers(80, 500, 2))
        images.append(_file(_picture(random, height, width), "JPEG" if index % 2 else "PNG"))
        sides.append(max(height, width))
    expected = ExpectedAnswers(supports, tuple(images), tuple(sides), {})
    answers = {
        pair: client.estimate(images[pair[1]], supports[pair[0]]).instances[0].keypoints
        for pair in product(range(SUPPORTS), range(IMAGES))
    }
    return replace(expected, keypoints=answers)


def _picture(random: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Generates smooth colours with a few edges, uint8 [height, width, 3]."""
    coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _file(pixels: npt.NDArray[np.uint8], form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()
