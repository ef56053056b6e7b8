"""Inputs and outputs of an exported decoder, independent of the engine that runs it.

A run takes batch items of equal shapes, one per sequence (see `export.capellm.graphs`). The prefix comes first: begin
token, image, and the part shared by all questions. Then each question is a batch item of its own, which extends the
prefix's keys and values; all advance in lockstep until every question is answered. Batch items are independent, so
several callers may share a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cape.capellm.answers import SpokenAnswer, begin_answer, decide, padded_pieces
from cape.capellm.configuration import Readout
from cape.capellm.grammar import AnswerGrammar

Float: TypeAlias = npt.NDArray[np.float32]

RowInputs: TypeAlias = dict[str, npt.NDArray[Any]]
"""Inputs of one batch item by name, without batch axis."""

OUTPUTS = ("logits", "keys", "values")


class Past(NamedTuple):
    """Key-value cache of a sequence, each [Y, H, P, d]: Y layers, H heads, P positions, depth d."""

    keys: Float
    values: Float

    @classmethod
    def nothing(cls, layers: int, heads: int, depth: int) -> Past:
        """Returns the empty cache."""
        empty = np.zeros((layers, heads, 0, depth), np.float32)
        return cls(empty, empty)

    @classmethod
    def of(cls, outputs: Mapping[str, npt.NDArray[Any]]) -> Past:
        """Returns the cache after a run."""
        return cls(outputs["keys"], outputs["values"])


def prefix_inputs(image_tokens: Float, opening: Sequence[int], nothing: Past) -> RowInputs:
    """Returns the batch item that begins a sequence.

    Args:
        image_tokens: [N, D].
        opening: begin token and the tokens after the image.
        nothing: see `Past.nothing`.
    """
    length = len(opening) + len(image_tokens)
    return {
        "input_ids": np.array(opening, np.int64),
        "image_tokens": image_tokens,
        "positions": np.arange(length),
        "mask": np.ones(length, np.int64),
        "past_keys": nothing.keys,
        "past_values": nothing.values,
    }


class AnswerSequences:
    """R questions answered in lockstep: run `inputs`, pass the result to `take`, repeat until `complete`.

    Args:
        questions: for each question, the tokens before the answer.
        prefixes: for each question, the cache of its prefix; all of one length.
        grammar: grammar of the vocabulary.
        width: D of an image token.
        readout: how digits are turned into a coordinate.
        multiple: questions are padded to a multiple of this many tokens, so that those of several callers share runs.
    """

    def __init__(
        self,
        questions: Sequence[Sequence[int]],
        prefixes: Sequence[Past],
        grammar: AnswerGrammar,
        *,
        width: int,
        readout: Readout = "greedy",
        multiple: int = 1,
    ) -> None:
        self.answers: list[SpokenAnswer] = [begin_answer(question, grammar, readout) for question in questions]
        self._grammar, self._readout, self._multiple = grammar, readout, multiple
        self._past = list(prefixes)
        length = prefixes[0].keys.shape[2]
        self._mask = np.ones((len(questions), length), np.int64)
        self._place = np.full(len(questions), length, np.int64)
        self._no_image = np.zeros((0, width), np.float32)
        self._running = list(range(len(questions)))

    @property
    def complete(self) -> bool:
        """Whether every question is answered."""
        return not self._running

    def inputs(self) -> list[RowInputs]:
        """Inputs of the next run, one batch item per unanswered question."""
        ids, real, offsets = padded_pieces([self.answers[row].pending for row in self._running], self._multiple)
        self._multiple = 1  # later pieces are a few tokens, in most vocabularies equally many for all
        self._mask = np.concatenate((self._mask, real), axis=1)
        positions = np.maximum(self._place[:, np.newaxis] + offsets, 0)
        self._place = self._place + real.sum(axis=1)
        return [
            {
                "input_ids": ids[place],
                "image_tokens": self._no_image,
                "positions": positions[place],
                "mask": self._mask[place],
                "past_keys": self._past[place].keys,
                "past_values": self._past[place].values,
            }
            for place in range(len(self._running))
        ]

    def take(self, outputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> None:
        """Continues with the outputs of a run.

        Args:
            outputs: for each batch item of `inputs`: logits [V], keys and values [Y, H, P + L, d].
        """
        spoken = [self.answers[row] for row in self._running]
        for answer in spoken:
            answer.pending.clear()
        logits = np.stack([np.asarray(row["logits"], np.float32) for row in outputs])
        decide(spoken, logits, self._grammar, self._readout)
        open_rows = [place for place, answer in enumerate(spoken) if not answer.complete]
        self._past = [Past.of(outputs[place]) for place in open_rows]
        self._mask, self._place = self._mask[open_rows], self._place[open_rows]
        self._running = [self._running[place] for place in open_rows]

    @property
    def keypoints(self) -> Float:
        """float32 [R, 2], fractions of the crop; once complete."""
        return np.array([answer.numbers for answer in self.answers], np.float32).reshape(-1, 2)

    @property
    def scores(self) -> Float:
        """float32 [R], mean probability of the decided tokens; once complete."""
        return np.array([answer.score for answer in self.answers], np.float32)
