"""The same work for everybody who is measured: a support and queries of chosen size, made from the example photographs.

Positions of the keypoints are made up: how long an answer takes does not depend on what is at them.
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
"""Photographs and their annotations, in a checkout."""

SIDES = ("left", "right", "upper", "lower")

PARTS = (
    "ear", "eye", "nostril", "cheek", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "wheel", "lamp", "door",
    "wing", "leg", "paw", "horn", "corner", "sleeve", "pocket", "edge", "hinge", "handle", "spoke", "rim",
)  # fmt: skip

SUPPORT_PHOTOGRAPH, QUERY_PHOTOGRAPH = "astronaut", "grace_hopper"


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of everybody.

    Attributes:
        support: registered before, or sent along, as a measurement says.
        image: an encoded photograph.
        boxes: where to look in it.
    """

    support: SupportDefinition
    image: bytes
    boxes: tuple[Box, ...]

    def unseen(self, number: int) -> SupportDefinition:
        """The support with other texts: neither its tokens nor its text embeddings can come from a cache.

        A million numbers in a row give different texts, of six tokens as the paper's: numbers below 1000 are words of
        BERT's vocabulary.
        """
        suffix = f"{number // 1000 % 1000} {number % 1000}"
        keypoints = tuple(KeypointDefinition(kp.name, f"{kp.name} {suffix}") for kp in self.support.keypoints)
        return replace(self.support, keypoints=keypoints)


def used_modalities(system: AnySystem) -> tuple[Modality, ...]:
    """What a system uses of a support that has everything."""
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
        shots: support images; the same photograph with other boxes.
        boxes: objects asked for in the query; overlapping crops of one photograph.
        megapixels: size of the query photograph, which is a JPEG of quality 90; None: as it is in the examples.
        modalities: what of the support the system uses, see `used_modalities`.
        examples: folder of the photographs.
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
    """A photograph at another size.

    Returns:
        A JPEG of quality 90 with about `megapixels`, and the factor by which its sides have grown.
    """
    with Image.open(io.BytesIO(photograph)) as image:
        scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        grown = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    grown.save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), scale


def _shot(example: SupportExample, keypoints: int, shot: int) -> SupportExample:
    """The photograph with made-up keypoints inside its box, which is moved by a pixel a shot."""
    assert example.box is not None
    box = replace(example.box, x=example.box.x + shot)
    fractions = np.random.default_rng(shot).uniform(0.1, 0.9, (keypoints, 2))
    points = np.array([box.x, box.y]) + fractions * np.array([box.width, box.height])
    return SupportExample(example.image, points.astype(np.float32), np.ones(keypoints, np.bool_), box)
