"""Queries and answers in plain Python and numpy: poses, models, live performance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from cape.support import Box, ImageSource, Modality, SupportDefinition


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One request of a batch or a stream.

    Attributes:
        image: where to look for keypoints.
        support: name of a registered support, "supports/{id}", or one to send along.
        boxes: the objects in the image, in pixels; None or empty for the whole image.
        model: "models/{system}"; empty for the server's default.
        similarity_maps: also return each keypoint's similarity map.
        proposals: also return each keypoint's initial proposal, before refinement.
        normalized: return coordinates as fractions of the image's width and height instead of pixels.
        partial_answers: in a stream, also return keypoints as they are found, if the model finds them one by one; see
            `PoseEstimate.partial`.
        find_box: if there are no boxes, look for the object in the image first, which takes up to about 40 crops.
    """

    image: ImageSource
    support: str | SupportDefinition
    boxes: Sequence[Box] | None = None
    model: str = ""
    similarity_maps: bool = False
    proposals: bool = False
    normalized: bool = False
    partial_answers: bool = False
    find_box: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PoseInstance:
    """The K keypoints of one object.

    Attributes:
        box: the box that was searched, in pixels.
        names: K names, as in the support.
        keypoints: float32 [K, 2], x and y in pixels of the upright image, or fractions of its size.
        scores: float32 [K], confidence 0–1.
        located: bool [K], False where the support does not describe the keypoint; position and score are then 0.
        proposals: float32 [K, 2] like `keypoints`, if requested; NaN where not located.
        similarity_maps: float32 [K, h, w] over the box's square crop, if requested; NaN where not located.
    """

    box: Box
    names: tuple[str, ...]
    keypoints: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    located: npt.NDArray[np.bool_]
    proposals: npt.NDArray[np.float32] | None = None
    similarity_maps: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which model and which inputs produced an answer.

    Attributes:
        model: "models/{system}".
        model_version: digest of the exported model.
        modalities: the support's modalities that were used.
        support_cache_hit: whether the encoded support came from the cache.
        texts: number of texts needed to encode the support.
        text_cache_hits: number of those whose embedding was cached.
    """

    model: str
    model_version: str
    modalities: tuple[Modality, ...]
    support_cache_hit: bool
    texts: int
    text_cache_hits: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Time the server spent in each stage, in seconds. A stage includes waiting for other requests.

    Attributes:
        total: from the arrival of the request to the answer.
        decode: decoding the query image.
        prepare: cropping and resizing.
        support: looking up or encoding the support; runs in parallel with decoding and the backbone pass.
        backbone: backbone pass of the query.
        decoder: pose decoder.
        queue: time in these stages spent waiting for the engine.
    """

    total: float
    decode: float
    prepare: float
    support: float
    backbone: float
    decoder: float
    queue: float


@dataclass(frozen=True, slots=True, eq=False)
class PoseEstimate:
    """The answer to one query.

    Attributes:
        instances: one per box, in the order of the boxes.
        provenance: which model and which inputs produced it.
        timing: time spent in each stage.
        partial: True for a partial answer of a stream (`Query.partial_answers`); the complete one follows. Its
            instances hold only the keypoints found since the previous answer, and provenance and timing are empty.
    """

    instances: tuple[PoseInstance, ...]
    provenance: Provenance
    timing: Timing
    partial: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that a server serves.

    Attributes:
        name: "models/{system}".
        system: "flf", "dlf", "capex" ...
        version: digest of the exported model.
        backbone: image backbone.
        text_encoder: empty when the model reads no text.
        image_size: side of the square crop, in pixels.
        max_keypoints: maximum number of keypoints in a support.
        precision: "float32", "float16", "bfloat16" or "int8".
        required_modalities: modalities that a support must have.
        optional_modalities: a support must have at least one of these.
        parity_keypoints: largest difference from PyTorch in float32 on keypoints, as a fraction of the crop.
        engine: name of the inference engine.
        is_default: whether requests without a model use it.
    """

    name: str
    system: str
    version: str
    backbone: str
    text_encoder: str
    image_size: int
    max_keypoints: int
    precision: str
    required_modalities: tuple[Modality, ...]
    optional_modalities: tuple[Modality, ...]
    parity_keypoints: float
    engine: str
    is_default: bool


@dataclass(frozen=True, slots=True)
class LatencyPercentiles:
    """Percentiles of `count` requests, in seconds."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class PaperFigures:
    """The paper's figures for a system (Table 5, RTX 3060).

    Attributes:
        time: seconds per query.
        frames_per_second: its throughput.
    """

    time: float
    frames_per_second: float


@dataclass(frozen=True, slots=True)
class ModelPerformance:
    """Live latency and throughput of a model.

    Attributes:
        model: "models/{system}".
        start_time: start of the measured period, in UTC.
        count: number of successful queries in that period.
        warm: latency of requests whose support was cached.
        cold: latency of requests whose support had to be encoded.
        frames_per_second: instances answered per second.
        paper: the paper's figures; None if it has none.
        speed_ratio: paper's time ÷ warm median, above 1 is faster; None if either is missing.
    """

    model: str
    start_time: datetime
    count: int
    warm: LatencyPercentiles
    cold: LatencyPercentiles
    frames_per_second: float
    paper: PaperFigures | None
    speed_ratio: float | None
