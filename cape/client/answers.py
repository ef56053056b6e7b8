"""What is asked and answered, in plain Python and numpy: queries, poses, models, live performance."""

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
        similarity_maps: also answer each keypoint's similarity map.
        proposals: also answer each keypoint's first proposal, before refinement.
        normalized: answer fractions of the image's width and height instead of pixels.
        partial_answers: in a stream, answer keypoints as they are found, too, where the model finds them one after the
            other; see `PoseEstimate.partial`.
        find_box: without boxes, look for the object in the image first, at the cost of several passes.
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
        box: the box that was looked into, in pixels.
        names: K names, as in the support.
        keypoints: float32 [K, 2], x and y in pixels of the upright image, or fractions of its size.
        scores: float32 [K], confidence 0–1.
        located: bool [K], False where the support says nothing of use; position and score are then 0.
        proposals: float32 [K, 2] like `keypoints`, if asked for; NaN where not located.
        similarity_maps: float32 [K, h, w] over the box's square crop, if asked for; NaN where not located.
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
    """What an answer was made from.

    Attributes:
        model: "models/{system}".
        model_version: digest of the exported model.
        modalities: what of the support was used.
        support_cache_hit: the support had been encoded before: its images and texts were not read again.
        texts: texts that were needed to encode the support.
        text_cache_hits: of those, texts whose embedding was cached.
    """

    model: str
    model_version: str
    modalities: tuple[Modality, ...]
    support_cache_hit: bool
    texts: int
    text_cache_hits: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went as the server saw it, in seconds; waiting for other requests is part of each stage.

    Attributes:
        total: from the arrival of the request to the answer.
        decode: decoding the query image.
        prepare: cropping and resizing.
        support: looking up or encoding the support, beside decoding and the backbone pass.
        backbone: backbone pass of the query.
        decoder: pose decoder.
        queue: of the stages above, waiting for the engine.
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
        provenance: what it was made from.
        timing: where the time went.
        partial: only in streams, where a query asks for it: the whole answer is still to come. The instances then have
            the keypoints alone that were found since the last one, and provenance and timing say nothing.
    """

    instances: tuple[PoseInstance, ...]
    provenance: Provenance
    timing: Timing
    partial: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that a server answers with.

    Attributes:
        name: "models/{system}".
        system: "flf", "dlf", "capex" ...
        version: digest of the exported model.
        backbone: image backbone.
        text_encoder: empty when the model reads no text.
        image_size: side of the square crop, in pixels.
        max_keypoints: most keypoints of a support.
        precision: "float32", "float16", "bfloat16" or "int8".
        required_modalities: what a support must have.
        optional_modalities: of these a support may lack some, not all.
        parity_keypoints: largest difference from PyTorch in float32 on keypoints, as a fraction of the crop.
        engine: what runs the model.
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
    """The paper's row for a system (Table 5, RTX 3060).

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
        start_time: start of what the figures cover, in UTC.
        count: successful queries that the figures cover.
        warm: latency of requests whose support was cached.
        cold: latency of requests whose support had to be encoded.
        frames_per_second: instances answered per second.
        paper: the paper's row; None where it has none.
        speed_ratio: paper's time ÷ warm median, above 1 is faster; None where either is missing.
    """

    model: str
    start_time: datetime
    count: int
    warm: LatencyPercentiles
    cold: LatencyPercentiles
    frames_per_second: float
    paper: PaperFigures | None
    speed_ratio: float | None
