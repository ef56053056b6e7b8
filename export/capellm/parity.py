"""Does an exported CapeLLM say what PyTorch says? Greedy answers token for token, on noise and on a photograph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cape.capellm.configuration import Readout
from cape.capellm.grammar import AnswerGrammar
from cape.capellm.sequences import AnswerSequences, Past, RowInputs, prefix_inputs
from cape.manifest import CacheManifest
from cape.models.capellm.checkpoint import CapeLlmCheckpoint
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import KeypointDefinition, SupportDefinition
from export.capellm.graphs import DECODER, VISION, cache_of
from export.graph import ExportError
from export.parity import TEXTS, ComponentRuntime, Differences, photograph_crops

CASES = ((1, 1, False), (2, 5, False), (2, 17, True))
"""Images, keypoints, and whether the images are crops of a photograph and not noise."""

RowsRunner: TypeAlias = Callable[[Mapping[str, npt.NDArray[Any]]], Mapping[str, npt.NDArray[Any]]]
"""Runs the decoder on a batch: inputs by name → outputs by name."""


class Decoded(NamedTuple):
    """Answers to R questions: keypoints float32 [R, 2], scores float32 [R], tokens of each."""

    keypoints: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    answers: tuple[tuple[int, ...], ...]


def decode(
    run: RowsRunner,
    grammar: AnswerGrammar,
    cache: CacheManifest,
    image_tokens: npt.NDArray[np.float32],
    opening: Sequence[int],
    asked: Sequence[tuple[int, Sequence[int]]],
    readout: Readout = "greedy",
) -> Decoded:
    """Answers questions about B images by an exported decoder, in one batch.

    Args:
        run: runs it.
        grammar: of its vocabulary.
        cache: shape of its keys and values.
        image_tokens: float32 [B, N, D].
        opening: begin token and what all questions share.
        asked: R pairs of an image and the tokens of a question about it.
        readout: how digits become a coordinate.
    """
    nothing = Past.nothing(cache.layers, cache.heads, cache.depth)
    prefixes = [Past.of(row) for row in _run(run, [prefix_inputs(image, opening, nothing) for image in image_tokens])]
    sequences = AnswerSequences(
        [question for _, question in asked],
        [prefixes[image] for image, _ in asked],
        grammar,
        width=image_tokens.shape[2],
        readout=readout,
    )
    while not sequences.complete:
        sequences.take(_run(run, sequences.inputs()))
    answers = tuple(tuple(answer.said) for answer in sequences.answers)
    return Decoded(sequences.keypoints, sequences.scores, answers)


def _run(run: RowsRunner, rows: Sequence[RowInputs]) -> list[dict[str, npt.NDArray[Any]]]:
    outputs = run({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    return [{name: array[index] for name, array in outputs.items()} for index in range(len(rows))]


def compare_answers(
    checkpoint: CapeLlmCheckpoint, runtime: ComponentRuntime, readout: Readout, differences: Differences
) -> Iterator[None]:
    """Runs both on the same questions; yields after each case.

    Raises:
        ExportError: an answer is not PyTorch's.
    """
    predictor = CapeLlmPredictor(checkpoint.model, checkpoint.tokenizer)
    grammar, cache = predictor.grammar, cache_of(checkpoint.model)
    assert grammar is not None, "answers are text"
    size = checkpoint.model.configuration.vision.image_size
    generator = np.random.default_rng(0)
    for images, keypoints, real in CASES:
        if real:
            crops = photograph_crops(generator, images, size)
        else:
            crops = generator.integers(0, 256, (images, size, size, 3), dtype=np.uint8)
        prompts = predictor.prompts(some_support(keypoints))
        expected_tokens = predictor.encode(list(crops))
        expected = predictor.locate(expected_tokens, prompts, readout)
        image_tokens = runtime.run(VISION, {"image": crops})["image_tokens"]
        actual = decode(
            lambda inputs: runtime.run(DECODER, inputs),
            grammar,
            cache,
            image_tokens,
            prompts.opening,
            [(image, question) for image in range(images) for question in prompts.questions],
            readout,
        )
        differences.add(f"{VISION}.image_tokens", expected_tokens.float().cpu().numpy(), image_tokens)
        differences.add("chain.keypoints", expected.keypoints.numpy(), actual.keypoints)
        differences.add("chain.scores", expected.scores.numpy(), actual.scores)
        wrong = [index for index, said in enumerate(expected.answers) if said != actual.answers[index]]
        if wrong:
            said, heard = (checkpoint.tokenizer.decode(each.answers[wrong[0]]) for each in (expected, actual))
            raise ExportError(
                f"{len(wrong)} of {len(expected.answers)} answers are not PyTorch's: {heard!r} instead of {said!r}"
            )
        said_ids, heard_ids = (np.concatenate(each.answers).astype(np.float32) for each in (expected, actual))
        differences.add("chain.answers", said_ids, heard_ids)
        yield


def some_support(keypoints: int) -> SupportDefinition:
    """A support of so many keypoints, of which every other one has a description."""
    names = [f"{TEXTS[index % len(TEXTS)]} {index}" for index in range(keypoints)]
    definitions = (KeypointDefinition(name, f"the {name}" if index % 2 else "") for index, name in enumerate(names))
    return SupportDefinition("animal", tuple(definitions))
