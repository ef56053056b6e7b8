"""Workloads for benchmarks: a support and queries of a given size, made from the example images.

Keypoint positions are arbitrary: the time of an answer does not depend on them.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cape.annotations import read_support
from cape.manifest import AnySystem
from cape.support import Box, KeypointDefinition, Modality, SupportDefinition, SupportExample

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
"""Example images and their annotations, in a checkout."""

SIDES = ("left", "right", "upper", "lower")

PARTS = (
    "ear", "eye", "nostril", "cheek", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "wheel", "lamp", "door",
    "wing", "leg", "paw", "horn", "corner", "sleeve", "pocket", "edge", "hinge", "handle", "spoke", "rim",
)  # fmt: skip

SUPPORT_PHOTOGRAPH, QUERY_PHOTOGRAPH = "astronaut", "grace_hopper"


@dataclass(frozen=True, slots=True)
class Workload:
    """A support and a query.

    Attributes:
        support: registered beforehand or sent inline, as the measurement requires.
        image: an encoded image.
        boxes: of the objects in it.
    """

    support: SupportDefinition
    image: bytes
    boxes: tuple[Box, ...]

    def unseen(self, number: int) -> SupportDefinition:
        """The support with new texts, so that neither its tokens nor its embeddings are cached.

        A million consecutive numbers give different texts of six tokens, as in the paper: numbers below 1000 are single
        tokens of BERT's vocabulary.
        """
        suffix = f"{number // 1000 % 1000} {number % 1000}"
        keypoints = tuple(KeypointDefinition(kp.name, f"{kp.name} {suffix}") for kp in self.support.keypoints)
        return replace(self.support, keypoints=keypoints)


def used_modalities(system: AnySystem) -> tuple[Modality, ...]:
    """The modalities a system uses of a support that has both."""
    uses: dict[Modality, str] = {"image": system.modalities.image, "text": system.modalities.text}
    return tuple(modality for modality, use in uses.items() if use != "unused")


def workload(
    *,
    keypoints: int = 17,
    shots: int = 1,
    boxes: int = 1,
    megapixels: float | None = None,
    modalities: tuple[Modality, ...] = ("image", "text"),
    examples: Path = EXAMPLES,
) -> Workload:
    """A support of the astronaut and a query of Grace Hopper.

    Args:
        keypoints: K, up to 100.
        shots: support images: the same image with other boxes.
        boxes: number of boxes in the query; overlapping crops of one image.
        megapixels: size of the query image, a JPEG of quality 90; None for the example as it is.
        modalities: see `used_modalities`.
        examples: folder of the images.
    """
    names = [f"{side} {part}" for part, side in itertools.product(PARTS, SIDES)][:keypoints]
    example = read_support(examples / f"{SUPPORT_PHOTOGRAPH}.yaml").examples[0]
    support = SupportDefinition(
        category="benchmark",
        keypoints=tuple(map(KeypointDefinition, names)),
        skeleton=tuple((start, start + 1) for start in range(keypoints - 1)),
        examples=tuple(_shot(example, keypoints, shot) for shot in range(shots)) if "image" in modalities else (),
        modalities=modalities,
    )
    query = read_support(examples / f"{QUERY_PHOTOGRAPH}.yaml").examples[0]
    assert query.box is not None
    assert isinstance(query.image, str | Path)
    data, scale = Path(query.image).read_bytes(), 1.0
    if megapixels is not None:
        data, scale = resized(data, megapixels)
    whole = query.box
    wanted = tuple(
        Box(scale * (whole.x + index), scale * (whole.y + index), scale * whole.width, scale * whole.height)
        for index in range(boxes)
    )
    return Workload(support, data, wanted)


def resized(photograph: bytes, megapixels: float) -> tuple[bytes, float]:
    """Resizes an image.

    Returns:
        A JPEG of quality 90 with about `megapixels`, and the scale factor of its sides.
    """
    with Image.open(io.BytesIO(photograph)) as image:
        scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        grown = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    grown.save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), scale


def _shot(example: SupportExample, keypoints: int, shot: int) -> SupportExample:
    """A support image with arbitrary keypoints inside its box, which is shifted by a pixel per shot."""
    assert example.box is not None
    box = replace(example.box, x=example.box.x + shot)
    fractions = np.random.default_rng(shot).uniform(0.1, 0.9, (keypoints, 2))
    points = np.array([box.x, box.y]) + fractions * np.array([box.width, box.height])
    return SupportExample(example.image, points.astype(np.float32), np.ones(keypoints, np.bool_), box)
