"""The outline of a support: everything but its images, which is all that a warm request needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cape.v1 import modality_pb2, support_pb2
from service.supports.modalities import declared_modalities
from service.supports.names import cache_key


@dataclass(frozen=True, slots=True)
class SupportOutline:
    """A validated support without its images.

    Attributes:
        name: 'supports/{digest of the content}'.
        category: of the object.
        keypoint_names: one per keypoint.
        descriptions: one per keypoint, empty where there is none.
        texts: what a text encoder reads, one per keypoint: the description, or else the name.
        edges: int64 [E, 2], the skeleton as keypoint indices.
        modalities: what models may use, ascending.
        owner: the tenant that it belongs to, or that sent it along; '' without API tokens.
        expire_time: nanoseconds since 1970 at which it expires; 0: never.
    """

    name: str
    category: str
    keypoint_names: tuple[str, ...]
    descriptions: tuple[str, ...]
    texts: tuple[str, ...]
    edges: npt.NDArray[np.int64]
    modalities: tuple[modality_pb2.Modality.ValueType, ...]
    owner: str = ""
    expire_time: int = 0

    @property
    def key(self) -> str:
        """Key of the support in caches. Tenants with identical content do not share entries: a fast answer would
        reveal that another tenant has registered the same support."""
        return cache_key(self.owner, self.name)

    @classmethod
    def of(cls, name: str, support: support_pb2.Support, owner: str = "") -> SupportOutline:
        """Builds the outline of a validated support; its images may be left out."""
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
            modalities=declared_modalities(support),
            owner=owner,
            expire_time=support.expire_time.ToNanoseconds() if support.HasField("expire_time") else 0,
        )
