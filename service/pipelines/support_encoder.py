"""From a support set to the tokens that every query of it shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cape.manifest import Manifest, Modalities, SystemManifest
from cape.support import Modality
from service.engines.base import BatchResult, BatchRunner
from service.errors import MissingModalityError
from service.pipelines.base import SupportTrace
from service.pipelines.image_features import image_features
from service.pipelines.texts import Embeddings, TextEmbedder
from service.process.tasks import together
from service.supports.prepared_support import PreparedSupport, Shot

Float: TypeAlias = npt.NDArray[np.float32]

NO_TEXTS = Embeddings(np.zeros((0, 0), dtype=np.float32), cache_hits=0, queue_seconds=0.0)


@dataclass(frozen=True, slots=True)
class SupportTokens:
    """A support as the pose decoder takes it: all that queries need of it.

    Attributes:
        tokens: float32 [P, N, W]; N is the bucket that the K keypoints are padded to.
        mask: float32 [P, N], 1 where a pathway knows the keypoint.
        adjacency: float32 [N, N], symmetric, 1 where two keypoints are joined.
        modalities: what of the support was used.
        keypoints: K.
    """

    tokens: Float
    mask: Float
    adjacency: Float
    modalities: tuple[Modality, ...]
    keypoints: int

    @property
    def located(self) -> npt.NDArray[np.bool_]:
        """bool [K]: whether any pathway knows the keypoint, so that it can be looked for."""
        return np.asarray((self.mask[:, : self.keypoints] > 0).any(axis=0))

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        return self.tokens.nbytes + self.mask.nbytes + self.adjacency.nbytes


def usable_modalities(system: str, rule: Modalities, support: PreparedSupport) -> tuple[Modality, ...]:
    """What a system uses of a support: all that both the system and the support have.

    Raises:
        MissingModalityError: a required modality is missing, or nothing is there of what it may choose from.
    """
    uses: dict[Modality, str] = {"image": rule.image, "text": rule.text}
    present: dict[Modality, bool] = {"image": bool(support.shots), "text": bool(support.texts)}
    nouns: dict[Modality, str] = {"image": "example images", "text": "texts"}
    usable = tuple(modality for modality, use in uses.items() if use != "unused" and present[modality])
    missing = [nouns[modality] for modality, use in uses.items() if use == "required" and not present[modality]]
    if missing:
        needs = " and ".join(nouns[modality] for modality, use in uses.items() if use == "required")
        description = f"model {system} needs {needs}; the support has no {' and no '.join(missing)} to use"
        raise MissingModalityError(support.name, description)
    if not usable:
        choice = " or ".join(nouns[modality] for modality, use in uses.items() if use == "optional")
        raise MissingModalityError(support.name, f"model {system} needs {choice}; the support has none to use")
    return usable


class SupportEncoder:
    """Encodes support sets: crops and texts at the same time, then fusion."""

    def __init__(self, manifest: Manifest, runner: BatchRunner, embedders: Mapping[str, TextEmbedder]) -> None:
        """Puts the parts together.

        Args:
            manifest: what is served.
            runner: runs components.
            embedders: one per system that reads text.
        """
        self._manifest = manifest
        self._systems = manifest.support_systems
        self._runner = runner
        self._embedders = embedders

    async def encode(
        self, system: str, support: PreparedSupport, deadline: float | None = None
    ) -> tuple[SupportTokens, SupportTrace]:
        """Computes a support's tokens.

        Args:
            system: a system of the manifest.
            support: checked and cropped.
            deadline: event loop time by which they are needed.

        Raises:
            MissingModalityError: the support lacks what the system needs.
            DeadlineError, QueueFullError, EngineError: from the runner.
        """
        spec = self._systems[system]
        modalities = usable_modalities(system, spec.modalities, support)
        texts = support.texts if "text" in modalities else ()
        shots = support.shots if "image" in modalities else ()
        images, embeddings = await together(
            image_features(self._runner, spec, [shot.crop for shot in shots], deadline),
            self._embed(system, texts, deadline, support.owner),
        )
        size = self._manifest.bucket(support.keypoints)
        component = spec.components["support_fusion"]
        available = _image_inputs(spec, shots, images, size) | _text_inputs(spec, embeddings, size)
        inputs = {tensor.name: available[tensor.name] for tensor in self._manifest.components[component].inputs}
        row = await self._runner.submit(component, inputs, ["support_tokens", "mask"], deadline)
        tokens = SupportTokens(
            # Copies: views would keep the whole batch alive as long as the cache holds this row.
            tokens=row.outputs["support_tokens"].astype(np.float32, copy=True),
            mask=row.outputs["mask"].astype(np.float32, copy=True),
            adjacency=_adjacency(support.edges, size),
            modalities=modalities,
            keypoints=support.keypoints,
        )
        encoding_wait = max([embeddings.queue_seconds, *(image.waited for image in images)])
        return tokens, SupportTrace(False, len(texts), embeddings.cache_hits, encoding_wait + row.waited)

    async def _embed(self, system: str, texts: Sequence[str], deadline: float | None, owner: str) -> Embeddings:
        return await self._embedders[system].embed(texts, deadline, owner) if texts else NO_TEXTS


def _image_inputs(
    system: SystemManifest, shots: Sequence[Shot], images: Sequence[BatchResult], size: int
) -> dict[str, npt.NDArray[Any]]:
    """features [S, C, F, F], keypoints [S, N, 2] and visible [S, N]; one empty shot if there are none."""
    count, side = max(len(shots), 1), system.feature_size
    features = np.zeros((count, system.backbone_channels, side, side), dtype=np.float32)
    keypoints = np.zeros((count, size, 2), dtype=np.float32)
    visible = np.zeros((count, size), dtype=np.float32)
    for index, (shot, image) in enumerate(zip(shots, images, strict=True)):
        features[index] = image.outputs["features"]
        # What the crop cuts off cannot be learnt from, visible in the photograph or not.
        seen = shot.visible & ((shot.keypoints >= 0) & (shot.keypoints <= 1)).all(axis=1)
        keypoints[index, : len(seen)] = np.where(seen[:, np.newaxis], shot.keypoints, 0)
        visible[index, : len(seen)] = seen
    return {"features": features, "keypoints": keypoints, "visible": visible}


def _text_inputs(system: SystemManifest, embeddings: Embeddings, size: int) -> dict[str, npt.NDArray[Any]]:
    """embeddings [N, D], rows of keypoints without text 0; nothing for a system without a text encoder."""
    if system.text_encoder is None:
        return {}
    rows = np.zeros((size, system.text_encoder.dimension), dtype=np.float32)
    rows[: len(embeddings.vectors)] = embeddings.vectors.reshape(-1, system.text_encoder.dimension)
    return {"embeddings": rows}


def _adjacency(edges: npt.NDArray[np.int64], size: int) -> Float:
    """The skeleton as a symmetric 0/1 matrix [size, size]."""
    adjacency = np.zeros((size, size), dtype=np.float32)
    start, end = edges.reshape(-1, 2).T
    adjacency[start, end] = adjacency[end, start] = 1
    return adjacency
