"""Names of supports: the digest that a support's content gives it, and its key in caches and databases."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from cape.v1 import support_pb2
from service.supports.modalities import declared_modalities

NAME_PREFIX = "supports/"


def cache_key(owner: str, name: str) -> str:
    """The key of a support in caches: no owner has a slash in its name, every support has one."""
    return f"{owner}/{name}"


def owner_and_name(key: str) -> tuple[str, str]:
    """What `cache_key` was given."""
    owner, _, name = key.partition("/")
    return owner, name


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
    add(*_integers(declared_modalities(support)), *_integers([len(support.examples)]))
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


def _integers(values: Iterable[int]) -> list[bytes]:
    return [struct.pack("<q", value) for value in values]


def _floats(values: Iterable[float]) -> list[bytes]:
    # Adding 0 turns −0 into 0.
    return [struct.pack("<f", value + 0.0) for value in values]
