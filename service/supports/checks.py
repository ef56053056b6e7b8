"""What a support says, checked: every rule that needs no pixels, and the name that its content gives it."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cape.manifest import Manifest
from cape.v1 import image_pb2, modality_pb2, support_pb2
from service.errors import InvalidFieldError
from service.images import ImageLimits, check_image

NAME_PREFIX = "supports/"
MAX_CATEGORY = 200
MAX_NAME = 200
MAX_DESCRIPTION = 1_000
MAX_EDGES = 10_000
"""Every ordered pair of 100 keypoints."""

MAX_BOX = 1_000_000.0
"""Pixels that a box may measure or lie away from the origin: beyond, single precision loses whole pixels."""

KNOWN_MODALITIES = (modality_pb2.MODALITY_IMAGE, modality_pb2.MODALITY_TEXT)


@dataclass(frozen=True, slots=True)
class SupportDefinition:
    """What a warm request needs of a support: all but its images.

    Attributes:
        name: 'supports/{digest of the content}'.
        category: of the object.
        keypoint_names: one per keypoint.
        descriptions: one per keypoint, empty where there is none.
        texts: what a text encoder reads, one per keypoint: the description, or else the name.
        edges: int64 [E, 2], the skeleton as keypoint indices.
        modalities: what models may use, ascending.
        owner: the tenant that it belongs to, or that sent it along; '' without API tokens.
    """

    name: str
    category: str
    keypoint_names: tuple[str, ...]
    descriptions: tuple[str, ...]
    texts: tuple[str, ...]
    edges: npt.NDArray[np.int64]
    modalities: tuple[modality_pb2.Modality.ValueType, ...]
    owner: str = ""

    @property
    def key(self) -> str:
        """What caches keep its tokens under. Tenants with the same content do not share them: whoever sends a
        support and is answered at once would know that somebody else has it."""
        return cache_key(self.owner, self.name)

    @classmethod
    def of(cls, name: str, support: support_pb2.Support, owner: str = "") -> SupportDefinition:
        """Takes the definition out of a support that has been checked; its images may be left out."""
        edges = np.array([(edge.start, edge.end) for edge in support.skeleton], dtype=np.int64).reshape(-1, 2)
        return cls(
            name=name,
            category=support.category,
            keypoint_names=tuple(keypoint.name for keypoint in support.keypoints),
            descriptions=tuple(
                keypoint.description if keypoint.description.strip() else "" for keypoint in support.keypoints
            ),
            texts=tuple(keypoint.description.strip() or keypoint.name for keypoint in support.keypoints),
            edges=edges,
            modalities=usable_modalities(support),
            owner=owner,
        )


def cache_key(owner: str, name: str) -> str:
    """The key of a support in caches: no owner has a slash in its name, every support has one."""
    return f"{owner}/{name}"


def owner_and_name(key: str) -> tuple[str, str]:
    """What `cache_key` was given."""
    owner, _, name = key.partition("/")
    return owner, name


def usable_modalities(support: support_pb2.Support) -> tuple[modality_pb2.Modality.ValueType, ...]:
    """The modalities that models may use of a support, ascending, the default filled in."""
    if support.modalities:
        return tuple(sorted(set(support.modalities)))
    return KNOWN_MODALITIES if support.examples else (modality_pb2.MODALITY_TEXT,)


def check_support(support: support_pb2.Support, manifest: Manifest, limits: ImageLimits) -> None:
    """Checks everything of a support that can be checked without decoding its images.

    Raises:
        InvalidFieldError: field paths relative to the support, such as 'examples[0].keypoints[3].x'.
    """
    if len(support.category) > MAX_CATEGORY:
        raise InvalidFieldError("category", f"{len(support.category)} characters; at most {MAX_CATEGORY}")
    _check_keypoints(support.keypoints, manifest.max_keypoints)
    _check_skeleton(support.skeleton, len(support.keypoints))
    if len(support.examples) > manifest.max_shots:
        raise InvalidFieldError("examples", f"{len(support.examples)}; at most {manifest.max_shots}")
    for index, example in enumerate(support.examples):
        try:
            _check_example(example, len(support.keypoints), limits)
        except InvalidFieldError as error:
            raise error.within(f"examples[{index}]") from None
    for index, modality in enumerate(support.modalities):
        if modality not in KNOWN_MODALITIES:
            raise InvalidFieldError(f"modalities[{index}]", f"{modality} is not a modality")
        if modality == modality_pb2.MODALITY_IMAGE and not support.examples:
            raise InvalidFieldError(f"modalities[{index}]", "MODALITY_IMAGE, but the support has no examples")


def check_box(box: image_pb2.BoundingBox) -> None:
    """Checks a box by itself.

    Raises:
        InvalidFieldError: a field of the box.
    """
    for field in ("x", "y", "width", "height"):
        value = getattr(box, field)
        if not math.isfinite(value) or abs(value) > MAX_BOX:
            raise InvalidFieldError(field, f"{value}; must be a number of at most {MAX_BOX:,.0f} pixels")
    for field in ("width", "height"):
        if getattr(box, field) <= 0:
            raise InvalidFieldError(field, f"{getattr(box, field)}; must be more than 0")


def content_name(support: support_pb2.Support) -> str:
    """The name that identical content always gets: 'supports/' and 32 hexadecimal digits.

    Only what a support means counts: not its name or time, nor how a protobuf library happened to serialise it,
    the coordinates of hidden keypoints, the direction, order or repetition of edges, a default spelled out.
    """
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        # Lengths keep "ab" + "c" from meaning the same as "a" + "bc".
        for part in parts:
            digest.update(struct.pack("<Q", len(part)))
            digest.update(part)

    add(b"cape.v1.Support", support.category.encode(), *_integers([len(support.keypoints)]))
    for definition in support.keypoints:
        add(definition.name.encode(), definition.description.encode())
    edges = sorted({(min(edge.start, edge.end), max(edge.start, edge.end)) for edge in support.skeleton})
    add(*_integers([len(edges)]), *_integers(index for edge in edges for index in edge))
    add(*_integers(usable_modalities(support)), *_integers([len(support.examples)]))
    for example in support.examples:
        if example.image.WhichOneof("source") == "raw":
            raw = example.image.raw
            add(b"raw", *_integers([raw.height, raw.width]), raw.rgb)
        else:
            add(b"encoded", example.image.encoded)
        box = example.box
        add(*(_floats([box.x, box.y, box.width, box.height]) if example.HasField("box") else [b""]))
        for keypoint in example.keypoints:
            add(*([b"hidden"] if keypoint.hidden else _floats([keypoint.x, keypoint.y])))
    return f"{NAME_PREFIX}{digest.hexdigest()[:32]}"


def _check_keypoints(keypoints: Sequence[support_pb2.KeypointDefinition], most: int) -> None:
    if not 1 <= len(keypoints) <= most:
        raise InvalidFieldError("keypoints", f"{len(keypoints)}; between 1 and {most} are needed")
    seen: dict[str, int] = {}
    for index, keypoint in enumerate(keypoints):
        name = keypoint.name.strip()
        if not name:
            raise InvalidFieldError(f"keypoints[{index}].name", "empty")
        if len(keypoint.name) > MAX_NAME:
            raise InvalidFieldError(f"keypoints[{index}].name", f"{len(keypoint.name)} characters; at most {MAX_NAME}")
        if name in seen:
            raise InvalidFieldError(f"keypoints[{index}].name", f"the same as keypoints[{seen[name]}].name")
        seen[name] = index
        if len(keypoint.description) > MAX_DESCRIPTION:
            raise InvalidFieldError(
                f"keypoints[{index}].description",
                f"{len(keypoint.description)} characters; at most {MAX_DESCRIPTION}",
            )


def _check_skeleton(skeleton: Sequence[support_pb2.SkeletonEdge], keypoints: int) -> None:
    if len(skeleton) > MAX_EDGES:
        raise InvalidFieldError("skeleton", f"{len(skeleton)} edges; at most {MAX_EDGES}")
    for index, edge in enumerate(skeleton):
        for field in ("start", "end"):
            value = getattr(edge, field)
            if not 0 <= value < keypoints:
                raise InvalidFieldError(
                    f"skeleton[{index}].{field}", f"{value}; there are keypoints 0 to {keypoints - 1}"
                )
        if edge.start == edge.end:
            raise InvalidFieldError(f"skeleton[{index}]", f"joins keypoint {edge.start} to itself")


def _check_example(example: support_pb2.SupportExample, keypoints: int, limits: ImageLimits) -> None:
    try:
        check_image(example.image, limits)
    except InvalidFieldError as error:
        raise error.within("image") from None
    if example.HasField("box"):
        try:
            check_box(example.box)
        except InvalidFieldError as error:
            raise error.within("box") from None
    if len(example.keypoints) != keypoints:
        raise InvalidFieldError("keypoints", f"{len(example.keypoints)}; the support defines {keypoints}")
    for index, keypoint in enumerate(example.keypoints):
        for field in ("x", "y"):
            value = getattr(keypoint, field)
            if not keypoint.hidden and not math.isfinite(value):
                raise InvalidFieldError(f"keypoints[{index}].{field}", f"{value}; must be a number")
    if all(keypoint.hidden for keypoint in example.keypoints):
        raise InvalidFieldError("keypoints", "all are hidden; at least one must be seen")


def _integers(values: Iterable[int]) -> list[bytes]:
    return [struct.pack("<q", value) for value in values]


def _floats(values: Iterable[float]) -> list[bytes]:
    # Adding 0 turns −0 into 0.
    return [struct.pack("<f", value + 0.0) for value in values]
