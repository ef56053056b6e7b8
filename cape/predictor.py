"""A complete model in PyTorch, from images to keypoints. For evaluation and explanations, not for serving."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from cape.checkpoints import Checkpoint
from cape.configuration import SystemConfiguration
from cape.geometry import Crop
from cape.images import read_image
from cape.modalities import usable_modalities
from cape.models.system import Pose
from cape.support import Box, ImageSource, Modality, SupportDefinition, SupportExample

Float = npt.NDArray[np.float32]


class PredictionError(ValueError):
    """A support or query is invalid. The message names the field."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSupport:
    """An encoded support, reusable for any number of queries.

    Attributes:
        definition: the support.
        tokens: [1, P, K, width].
        mask: [1, P, K], 1 where a pathway knows the keypoint.
        adjacency: [1, K, K].
        modalities: the support's modalities that were used.
    """

    definition: SupportDefinition
    tokens: Tensor
    mask: Tensor
    adjacency: Tensor
    modalities: tuple[Modality, ...]

    @property
    def located(self) -> npt.NDArray[np.bool_]:
        """bool [K], whether any pathway knows the keypoint."""
        return np.asarray(self.mask[0].amax(0).cpu().numpy() > 0)


@dataclass(frozen=True, slots=True, eq=False)
class PathwayEvidence:
    """Maps and positions of one pathway. Maps have H × W cells over the crop.

    Attributes:
        modalities: the support's modalities that the pathway uses.
        similarity: float32 [K, H, W], raw similarity of keypoint and cell.
        attention: float32 [K, H, W], cross-attention of the last decoder layer, averaged over its heads.
        proposals: float32 [K, 2], initial proposals, fractions of the crop.
        keypoints: float32 [K, 2], final keypoints, fractions of the crop.
        located: bool [K], whether the pathway knows the keypoint.
    """

    modalities: tuple[Modality, ...]
    similarity: Float
    attention: Float
    proposals: Float
    keypoints: Float
    located: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The keypoints of a support in one box of a query image.

    Attributes:
        box: the box of the query.
        crop: the square crop that the model saw.
        keypoints: float32 [K, 2], x and y in pixels of the upright image.
        scores: float32 [K], 0–1.
        located: bool [K]; False where the support does not describe the keypoint; its other values are undefined.
        pathways: one, or two for decision-level fusion (image first).
    """

    box: Box
    crop: Crop
    keypoints: Float
    scores: Float
    located: npt.NDArray[np.bool_]
    pathways: tuple[PathwayEvidence, ...]


class Predictor:
    """Estimates poses with a checkpoint. The weights must not change while the predictor is in use.

    Args:
        checkpoint: from `load_checkpoint`.
        device: device to run on.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> None:
        self.configuration: SystemConfiguration = checkpoint.system.configuration
        self.device = torch.device(device)
        self._system = checkpoint.system.to(self.device).eval()
        self._tokenizer: Tokenizer | None = None
        self._last_texts: tuple[list[str], Tensor] | None = None
        if self.configuration.text is not None and checkpoint.tokenizer is not None:
            self._tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer))
            self._tokenizer.enable_truncation(self.configuration.text.max_tokens)
            self._tokenizer.enable_padding(pad_id=int(self.configuration.text.architecture.get("pad_token_id") or 0))

    def estimate(
        self, image: ImageSource, support: SupportDefinition | EncodedSupport, boxes: Sequence[Box] = ()
    ) -> list[Prediction]:
        """Finds the keypoints of a support in an image.

        Args:
            image: the query.
            support: a definition, or the result of `encode_support`, for many queries.
            boxes: the objects, in pixels of the upright image; none for the whole image.

        Returns:
            One prediction per box.

        Raises:
            MissingModalityError: the support lacks what the model needs.
            PredictionError: a keypoint or a box lies outside its image.
            OSError: an image cannot be read.
        """
        encoded = support if isinstance(support, EncodedSupport) else self.encode_support(support)
        pixels = read_image(image)
        wanted = tuple(boxes) or (_whole(pixels),)
        crops = [self.crop(box, pixels, f"boxes[{index}]") for index, box in enumerate(wanted)]
        pose = self.decode(self.encode_crops([crop.extract(pixels) for crop in crops]), encoded)
        keypoints, scores = _numpy(pose.keypoints), _numpy(pose.scores)
        return [
            Prediction(
                box=box,
                crop=crop,
                keypoints=crop.to_image(keypoints[row]),
                scores=scores[row],
                located=encoded.located,
                pathways=self._evidence(pose, row, encoded),
            )
            for row, (box, crop) in enumerate(zip(wanted, crops, strict=True))
        ]

    def encode_support(self, support: SupportDefinition) -> EncodedSupport:
        """Encodes a support once for many queries.

        Raises:
            MissingModalityError: it lacks what the model needs.
            PredictionError: a keypoint or a box lies outside its image.
            OSError: an image cannot be read.
        """
        count = len(support.keypoints)
        if not 1 <= count <= self.configuration.max_keypoints:
            raise PredictionError(f"keypoints: {count}; from 1 to {self.configuration.max_keypoints}")
        used = usable_modalities(self.configuration, support)
        inputs: dict[str, Tensor] = {}
        with torch.inference_mode():
            if self.configuration.reads_images:
                inputs |= self._image_inputs(support.examples if "image" in used else (), count)
            if self.configuration.reads_text:
                inputs["embeddings"] = self._embeddings(support, used)
            tokens, mask = self._system.fuse_support(**inputs)
        adjacency = torch.zeros(1, count, count, device=self.device)
        for start, end in support.skeleton:
            adjacency[0, start, end] = adjacency[0, end, start] = 1
        return EncodedSupport(support, tokens, mask, adjacency, used)

    def encode_crops(self, crops: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Runs the image backbone on crops, RGB, uint8 [size, size, 3] each. Returns features [B, C, F, F]."""
        with torch.inference_mode():
            return self._system.encode_image(torch.from_numpy(np.stack(crops)).to(self.device))

    def decode(self, features: Tensor, support: EncodedSupport) -> Pose:
        """Locates the keypoints of one support in queries, in one batch.

        Args:
            features: [B, C, F, F], from `encode_crops`.
            support: from `encode_support`.
        """
        count = len(features)
        with torch.inference_mode():
            return self._system.decode_pose(
                features,
                support.tokens.expand(count, -1, -1, -1),
                support.mask.expand(count, -1, -1),
                support.adjacency.expand(count, -1, -1),
            )

    def crop(self, box: Box, image: npt.NDArray[np.uint8], field: str = "box") -> Crop:
        """Returns the square crop of a box.

        Args:
            box: in pixels of the image.
            image: the upright image, uint8 [H, W, 3].
            field: name of the box in errors.

        Raises:
            PredictionError: the box lies outside the image.
        """
        height, width = image.shape[:2]
        if box.x >= width or box.y >= height or box.x + box.width <= 0 or box.y + box.height <= 0:
            raise PredictionError(f"{field}: outside the image, which is {width} × {height} pixels")
        size, padding = self.configuration.backbone.image_size, self.configuration.box_padding
        try:
            return Crop.around(box.x, box.y, box.width, box.height, size=size, padding=padding)
        except ValueError as error:
            raise PredictionError(f"{field}: {error}") from None

    def _image_inputs(self, examples: Sequence[SupportExample], count: int) -> dict[str, Tensor]:
        """Features [1, S, C, F, F], keypoints [1, S, K, 2], visible [1, S, K]; one empty shot without examples."""
        backbone = self.configuration.backbone
        shots = max(len(examples), 1)
        side = backbone.feature_size
        features = torch.zeros(1, shots, backbone.channels, side, side, device=self.device)
        keypoints = np.zeros((1, shots, count, 2), dtype=np.float32)
        visible = np.zeros((1, shots, count), dtype=np.float32)
        crops = []
        for index, example in enumerate(examples):
            field = f"examples[{index}]"
            if example.image is None:
                raise PredictionError(f"{field}.image: there is none")
            pixels = read_image(example.image)
            _check_inside(example, pixels, field)
            crop = self.crop(example.box or _whole(pixels), pixels, f"{field}.box")
            crops.append(crop.extract(pixels))
            points = crop.to_crop(example.keypoints)
            # Keypoints outside the crop count as hidden, even if they are visible in the image.
            seen = example.visible & ((points >= 0) & (points <= 1)).all(axis=1)
            keypoints[0, index] = np.where(seen[:, np.newaxis], points, 0)
            visible[0, index] = seen
        if crops:
            features = self.encode_crops(crops).unsqueeze(0)
        return {
            "features": features,
            "keypoints": torch.from_numpy(keypoints).to(self.device),
            "visible": torch.from_numpy(visible).to(self.device),
        }

    def _embeddings(self, support: SupportDefinition, used: tuple[Modality, ...]) -> Tensor:
        """Text embeddings [1, K, D]; 0 where texts are not used."""
        assert self.configuration.text is not None
        if "text" not in used:
            return torch.zeros(1, len(support.keypoints), self.configuration.text.dimension, device=self.device)
        if self._tokenizer is None:
            raise PredictionError(f"the checkpoint has no tokenizer for {self.configuration.text.name}")
        texts = [keypoint.description.strip() or keypoint.name for keypoint in support.keypoints]
        # Caches the last texts: consecutive supports of a category differ only in their images.
        if self._last_texts is None or self._last_texts[0] != texts:
            encodings = self._tokenizer.encode_batch(texts)
            ids = torch.tensor([[encoding.ids for encoding in encodings]], device=self.device)
            mask = torch.tensor([[encoding.attention_mask for encoding in encodings]], device=self.device)
            self._last_texts = texts, self._system.encode_text(ids, mask)
        return self._last_texts[1]

    def _evidence(self, pose: Pose, row: int, support: EncodedSupport) -> tuple[PathwayEvidence, ...]:
        side = self.configuration.head.similarity_size
        several = len(pose.pathways) > 1
        known: tuple[tuple[Modality, ...], ...] = (("image",), ("text",)) if several else (support.modalities,)
        return tuple(
            PathwayEvidence(
                modalities=modalities,
                similarity=_numpy(pathway.proposals.similarity[row]).reshape(-1, side, side),
                attention=_numpy(pathway.attention[row].mean(0)).reshape(-1, side, side),
                proposals=_numpy(pathway.proposals.peak[row]),
                keypoints=_numpy(pathway.keypoints[-1, row]),
                located=np.asarray(_numpy(support.mask[0, index]) > 0),
            )
            for index, (modalities, pathway) in enumerate(zip(known, pose.pathways, strict=True))
        )


def _check_inside(example: SupportExample, image: npt.NDArray[np.uint8], field: str) -> None:
    height, width = image.shape[:2]
    for index, axis in itertools.product(np.flatnonzero(example.visible), (0, 1)):
        value = float(example.keypoints[index, axis])
        if not 0 <= value <= (width, height)[axis]:
            raise PredictionError(
                f"{field}.keypoints[{index}].{'xy'[axis]}: {value:g}; "
                f"outside the image, which is {width} × {height} pixels"
            )


def _whole(image: npt.NDArray[np.uint8]) -> Box:
    height, width = image.shape[:2]
    return Box(0, 0, width, height)


def _numpy(tensor: Tensor) -> Float:
    return np.asarray(tensor.float().cpu().numpy())
