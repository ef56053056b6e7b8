"""CapeLLM's decoding on exported graphs, without torch: the keypoints of a request as one batch over a shared prefix.

What runs the graph is a function, so that ONNX Runtime in this process and Triton serve alike. Rows of several
requests may share a batch as long as their prefixes are of one length; each row names its image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cape.capellm.answers import Readout, begin_answer, decide, padded_pieces
from cape.capellm.grammar import AnswerGrammar

Run: TypeAlias = Callable[[Mapping[str, npt.NDArray[Any]]], Mapping[str, npt.NDArray[Any]]]
"""Runs `capellm_decoder` (see `export.capellm`): inputs by name → outputs by name."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedKeypoints:
    """Answers to R questions.

    Attributes:
        keypoints: float32 [R, 2], fractions of the crop.
        scores: float32 [R], mean probability of what was decided.
        answers: the tokens of each answer.
    """

    keypoints: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    answers: tuple[tuple[int, ...], ...]


class CapeLlmDecoder:
    """Asks a language model where keypoints are.

    Args:
        run: runs the exported decoder.
        grammar: of its vocabulary.
        layers, heads, depth: Y, H and d of its keys and values.
    """

    def __init__(self, run: Run, grammar: AnswerGrammar, *, layers: int, heads: int, depth: int) -> None:
        self._run = run
        self._grammar = grammar
        self._nothing = np.zeros((layers, 1, heads, 0, depth), np.float32)

    def prefix(self, image_tokens: npt.NDArray[np.float32], opening: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """Keys and values of begin token, images and opening, each [Y, B, H, P, d]: what all questions share.

        Args:
            image_tokens: [B, N, D].
            opening: begin token and what follows it.
        """
        images, length = len(image_tokens), len(opening) + image_tokens.shape[1]
        nothing = np.repeat(self._nothing, images, axis=1)
        found = self._run(
            {
                "input_ids": np.tile(np.array(opening, np.int64), (images, 1)),
                "image_tokens": image_tokens,
                "positions": np.tile(np.arange(length), (images, 1)),
                "mask": np.ones((images, length), np.int64),
                "past_keys": nothing,
                "past_values": nothing,
            }
        )
        return [found["keys"], found["values"]]

    def locate(
        self,
        prefix: Sequence[npt.NDArray[np.float32]],
        images: Sequence[int],
        questions: Sequence[Sequence[int]],
        width: int,
        readout: Readout = "greedy",
    ) -> DecodedKeypoints:
        """Answers R questions.

        Args:
            prefix: from `prefix`.
            images: for each question, the row of the prefix that it is about.
            questions: the tokens of each, up to the answer.
            width: D.
            readout: how digits become a coordinate.
        """
        keys, values = (one[:, list(images)] for one in prefix)
        rows, length = len(questions), keys.shape[3]
        mask, place = np.ones((rows, length), np.int64), np.full(rows, length, np.int64)
        no_image = np.zeros((rows, 0, width), np.float32)
        answers = [begin_answer(question, self._grammar, readout) for question in questions]
        while unfinished := [index for index, answer in enumerate(answers) if not answer.complete]:
            ids, real, offsets = padded_pieces([answer.pending for answer in answers])
            mask = np.concatenate((mask, real), axis=1)
            found = self._run(
                {
                    "input_ids": ids,
                    "image_tokens": no_image,
                    "positions": np.maximum(place[:, np.newaxis] + offsets, 0),
                    "mask": mask,
                    "past_keys": keys,
                    "past_values": values,
                }
            )
            keys, values = found["keys"], found["values"]
            place = place + real.sum(axis=1)
            for answer in answers:
                answer.pending.clear()
            decide([answers[index] for index in unfinished], found["logits"][unfinished], self._grammar, readout)
        return DecodedKeypoints(
            np.array([answer.numbers for answer in answers], np.float32).reshape(-1, 2),
            np.array([answer.score for answer in answers], np.float32),
            tuple(tuple(answer.said) for answer in answers),
        )
