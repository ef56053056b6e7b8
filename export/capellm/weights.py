"""A CapeLLM's graphs with rounded weights, what that does to its answers, and a gate on it.

The graphs in float32, whose answers are PyTorch's, and the rounded ones answer the same questions in turns: about
drawn objects with the names and descriptions of their own keypoints, and about crops of a photograph.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cape.capellm.configuration import Readout
from cape.capellm.grammar import AnswerGrammar
from cape.capellm.prompts import Prompts
from cape.data.synthetic import SyntheticDataset
from cape.geometry import Crop
from cape.manifest import MODEL_FILE, CacheManifest, ParityEntry, RoundedWeights
from cape.models.capellm.checkpoint import CapeLlmCheckpoint
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import SupportDefinition
from export.capellm.graphs import DECODER, VISION, cache_of
from export.capellm.parity import Decoded, decode, some_support
from export.graph import ExportError, graph_digest
from export.parity import Differences, Runtime, photograph_crops
from export.weights import quantise_file

TOLERANCE = 0.02
"""Mean distance from float32's keypoints, as a fraction of the crop, that an export may have unless told otherwise:
half of the strictest usual score, PCK@0.05, whose 0.05 of the box are 0.04 of a crop 1.25 times as large."""

CATEGORIES, CROPS = 8, 4
"""Drawn objects, each of another category, and crops of the photograph."""

TURNS = 3
"""Times that both answer a question; times are medians."""


class WeightsCost(NamedTuple):
    """What rounding did.

    Attributes:
        answers: to the answers, for the manifest.
        parity: of the rounded graphs, for the manifest.
        seconds, float32_seconds: median over images of the time for all its keypoints.
        precisions: of the components that were rounded.
        bytes, float32_bytes: of all graphs.
    """

    answers: RoundedWeights
    parity: tuple[ParityEntry, ...]
    seconds: float
    float32_seconds: float
    precisions: Mapping[str, Literal["int8", "int4"]] = MappingProxyType({})
    bytes: int = 0
    float32_bytes: int = 0


class _Case(NamedTuple):
    """Crops uint8 [B, S, S, 3] and what is asked about each."""

    crops: npt.NDArray[np.uint8]
    prompts: Prompts


def round_weights(
    checkpoint: CapeLlmCheckpoint,
    folder: Path,
    weights: Literal["int8", "int4"],
    readout: Readout,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WeightsCost:
    """Puts rounded graphs in the place of an export's, and compares both.

    The decoder has the wanted bits. A DINOv2 has 8: it is linear layers too, runs once an image, and all keypoints
    hang on it. A convolutional tower stays as it is, for what can be rounded is products of matrices.

    Args:
        checkpoint: what was exported.
        folder: with the graphs in float32.
        weights: how to store them.
        readout: how digits become a coordinate.
        tolerance: mean distance of keypoints, as a fraction of the crop, that is let pass.
        progress: told of images that are done, and of all.

    Raises:
        ExportError: the answers are further away than that.
    """
    with tempfile.TemporaryDirectory(dir=folder) as plain:
        graphs = {name: folder / name / MODEL_FILE for name in (VISION, DECODER)}
        originals = dict(graphs)
        precisions: dict[str, Literal["int8", "int4"]] = {DECODER: weights}
        if checkpoint.model.configuration.vision.kind == "dinov2":
            precisions[VISION] = "int8"
        for name, stored in precisions.items():
            originals[name] = Path(plain) / name / MODEL_FILE
            originals[name].parent.parent.mkdir()
            graphs[name].parent.rename(originals[name].parent)
            quantise_file(originals[name], graphs[name], stored, "logits" if name == DECODER else None)
        cost = _compared(checkpoint, Runtime(originals), Runtime(graphs), weights, readout, tolerance, progress)
        cost = cost._replace(
            precisions=precisions,
            bytes=sum(graph_digest(path)[1] for path in graphs.values()),
            float32_bytes=sum(graph_digest(path)[1] for path in originals.values()),
        )
    found = cost.answers
    if not found.mean_distance <= tolerance:
        raise ExportError(
            f"with {weights} weights keypoints are on average {found.mean_distance:.4f} of the crop away from "
            f"float32's, more than {tolerance:g} ({found.equal_answers:.0%} of {found.answers} answers are equal): "
            "nothing was written. --weights-tolerance lets more pass"
        )
    return cost


def _compared(
    checkpoint: CapeLlmCheckpoint,
    float32: Runtime,
    rounded: Runtime,
    weights: Literal["int8", "int4"],
    readout: Readout,
    tolerance: float,
    progress: Callable[[int, int], None],
) -> WeightsCost:
    predictor = CapeLlmPredictor(checkpoint.model, checkpoint.tokenizer)
    grammar, cache = predictor.grammar, cache_of(checkpoint.model)
    assert grammar is not None, "answers are text"
    differences, pairs = Differences(), []
    seconds: tuple[list[float], list[float]] = ([], [])
    for done, case in enumerate(_cases(predictor), start=1):
        answers: list[Decoded] = []
        turns: list[list[float]] = [[], []]
        for _ in range(TURNS):
            answers.clear()
            for runtime, times in zip((float32, rounded), turns, strict=True):
                began = time.perf_counter()
                answers.append(_answers(runtime, grammar, cache, case, readout))
                times.append(time.perf_counter() - began)
        for times, medians in zip(turns, seconds, strict=True):
            medians.append(float(np.median(times)) / len(case.crops))
        differences.add("chain.keypoints", answers[0].keypoints, answers[1].keypoints)
        differences.add("chain.scores", answers[0].scores, answers[1].scores)
        pairs.append(answers)
        progress(done, CATEGORIES + 1)
    expected, found = (
        [one for each in pairs for one in zip(each[which].answers, each[which].keypoints, strict=True)]
        for which in (0, 1)
    )
    distances = [float(np.linalg.norm(e[1] - f[1])) for e, f in zip(expected, found, strict=True)]
    decided = [_digits(grammar, answer) for answer, _ in expected], [_digits(grammar, answer) for answer, _ in found]
    tokens = [a == b for one, other in zip(*decided, strict=True) for a, b in zip(one, other, strict=False)]
    return WeightsCost(
        RoundedWeights(
            weights=weights,
            answers=len(expected),
            equal_answers=float(np.mean([e[0] == f[0] for e, f in zip(expected, found, strict=True)])),
            equal_tokens=float(np.mean(tokens)),
            mean_distance=float(np.mean(distances)),
            largest_distance=max(distances),
            tolerance=tolerance,
        ),
        differences.entries(),
        float(np.median(seconds[1])),
        float(np.median(seconds[0])),
    )


def _digits(grammar: AnswerGrammar, answer: tuple[int, ...]) -> tuple[int, ...]:
    """The tokens that were decided; the others are the same in every answer."""
    inner = answer[len(grammar.head) : len(answer) - len(grammar.tail)]
    # Both coordinates have as many tokens in a vocabulary that writes all numbers alike.
    digits = (len(inner) - len(grammar.middle)) // 2
    return inner[:digits] + inner[digits + len(grammar.middle) :]


def _answers(runtime: Runtime, grammar: AnswerGrammar, cache: CacheManifest, case: _Case, readout: Readout) -> Decoded:
    def run(inputs: Any) -> Any:
        return runtime.run(DECODER, inputs)

    image_tokens = runtime.run(VISION, {"image": case.crops})["image_tokens"]
    asked = [(image, question) for image in range(len(case.crops)) for question in case.prompts.questions]
    return decode(run, grammar, cache, image_tokens, case.prompts.opening, asked, readout)


def _cases(predictor: CapeLlmPredictor) -> Iterator[_Case]:
    configuration = predictor.model.configuration
    size = configuration.vision.image_size
    drawn = SyntheticDataset("train", objects_per_category=1, seed=1)
    for category in np.linspace(0, len(drawn.categories) - 1, CATEGORIES).astype(int).tolist():
        known, (object_id,) = drawn.categories[category], drawn.objects(category)
        annotated = drawn.load(object_id)
        box = annotated.box
        crop = Crop.around(box.x, box.y, box.width, box.height, size=size, padding=configuration.box_padding)
        support = SupportDefinition(known.name, known.keypoints[: configuration.max_keypoints])
        yield _Case(crop.extract(annotated.image)[np.newaxis], predictor.prompts(support))
    yield _Case(photograph_crops(np.random.default_rng(0), CROPS, size), predictor.prompts(some_support(17)))
