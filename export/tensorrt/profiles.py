"""Optimisation profiles: the shapes that an engine takes, and those that it is tuned for.

An engine chooses its kernels for a profile's middle shape and its memory for the largest, so a component gets one
profile per way in which it is called instead of one that covers everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cape.manifest import ComponentManifest, Manifest, Role
from export.triton.options import LARGEST_BATCH

Range = tuple[int, int, int]
"""Smallest, tuned for, largest."""

TUNED_BATCH: dict[Role, int] = {
    # Crops, texts, support sets and queries that come together on a server that is busy, not flooded.
    "image_backbone": 4,
    "text_encoder": 32,
    "support_fusion": 1,
    "pose_decoder": 4,
}

TUNED_TOKENS = 8
"""Most keypoint texts are "left front paw": three to six words with their start and end mark."""

TEXT_SETS = 8
"""Support sets whose texts come in one request [B, K, T]: the ensembles send one set at a time."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One set of shapes.

    Attributes:
        name: what it is for.
        sizes: dynamic axis ("B", "K", "S", "T") → range.
        shapes: input → its smallest, middle and largest shape.
    """

    name: str
    sizes: Mapping[str, Range]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


def profiles(role: Role, component: ComponentManifest, manifest: Manifest, max_tokens: int = 77) -> tuple[Profile, ...]:
    """The profiles of a component: one per bucket of keypoint counts where it takes keypoints.

    Args:
        role: what the component does.
        component: its inputs and largest batch.
        manifest: its repository's, for buckets and limits.
        max_tokens: tokens after which a text is cut.
    """
    largest = min(component.max_batch_size, LARGEST_BATCH.get(role, component.max_batch_size))
    batch = (1, min(TUNED_BATCH[role], largest), largest)
    if role == "image_backbone":
        return (_profile("crops", component, {"B": batch}),)
    tokens = (2, min(TUNED_TOKENS, max_tokens), max_tokens)
    if role == "text_encoder":
        most = manifest.max_keypoints
        sets = (1, 1, min(TEXT_SETS, component.max_batch_size))
        return (
            _profile("single texts", component, {"B": batch, "K": (1, 1, 1), "T": tokens}),
            _profile("texts of a set", component, {"B": sets, "K": (1, min(24, most), most), "T": tokens}),
        )
    shots = (1, 1, manifest.max_shots)
    found, smallest = [], 1
    for bucket in manifest.keypoint_buckets:
        sizes = {"B": batch, "K": (smallest, bucket, bucket), "S": shots}
        found.append(_profile(f"up to {bucket} keypoints", component, sizes))
        smallest = bucket + 1
    return tuple(found)


def _profile(name: str, component: ComponentManifest, sizes: Mapping[str, Range]) -> Profile:
    used = {size for spec in component.inputs for size in spec.shape if isinstance(size, str)}

    def shape(spec_shape: tuple[int | str, ...], index: int) -> tuple[int, ...]:
        return tuple(sizes[size][index] if isinstance(size, str) else size for size in spec_shape)

    return Profile(
        name,
        {axis: size for axis, size in sizes.items() if axis in used},
        {spec.name: (shape(spec.shape, 0), shape(spec.shape, 1), shape(spec.shape, 2)) for spec in component.inputs},
    )
