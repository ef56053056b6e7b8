"""Decodes all keypoints of a request as one batch over a shared prefix, without steps for forced tokens.

Plain decoding runs image and question once per keypoint, then one step per token. Here begin token, image and opening
run once per image, and all keypoints share their keys and values. The questions form one batch. Only the digits of an
answer are decided (`cape.capellm.grammar`); forced tokens run together with the digits before them. In a vocabulary
like Llama 3's, a keypoint costs its question and one further step. Greedy answers are those of plain greedy decoding
wherever that is well-formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from cape.capellm.answers import SpokenAnswer, begin_answer, decide, padded_pieces
from cape.capellm.configuration import Readout
from cape.capellm.grammar import AnswerGrammar
from cape.models.capellm.model import CapeLlm

ROWS_AT_ONCE = 128
"""Questions per batch. Bounds memory, because each batch item holds the prefix's keys and values."""


@dataclass(slots=True)
class DecodingCost:
    """Cost of answers.

    Attributes:
        prompt_tokens: positions that ran through the language model before answers began, padding not counted.
        answer_tokens: positions of answers that ran through it, padding not counted.
        steps: runs of the language model.
    """

    prompt_tokens: int = 0
    answer_tokens: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """Keypoints found.

    Attributes:
        keypoints: float32 [R, 2], fractions of the crop; NaN where an answer was not well-formed.
        scores: float32 [R], mean probability of the decided tokens (public CapeLLM code).
        answers: the tokens of each answer, without its end token.
        cost: what they cost.
    """

    keypoints: Tensor
    scores: Tensor
    answers: tuple[tuple[int, ...], ...]
    cost: DecodingCost


@torch.inference_mode()
def locate(
    model: CapeLlm,
    grammar: AnswerGrammar,
    image_tokens: Tensor,
    opening: Sequence[int],
    questions: Sequence[Sequence[int]],
    *,
    readout: Readout = "greedy",
    rows_at_once: int = ROWS_AT_ONCE,
) -> Located:
    """Finds keypoints of B images, Q questions each; R = B · Q answers, those of the first image first.

    Args:
        model: with text answers, in evaluation mode.
        grammar: of its vocabulary.
        image_tokens: [B, N, D].
        opening: begin token and what is the same for all questions.
        questions: the tokens of each, up to the answer.
        readout: how digits become a coordinate.
        rows_at_once: questions in one batch.
    """
    cost = DecodingCost()
    prefix = Prefix(model, image_tokens, opening, cost)
    found: list[SpokenAnswer] = []
    pairs = [(image, question) for image in range(len(image_tokens)) for question in questions]
    for start in range(0, len(pairs), rows_at_once):
        chosen = pairs[start : start + rows_at_once]
        found += _answer(prefix, grammar, [image for image, _ in chosen], [asked for _, asked in chosen], readout, cost)
    return Located(
        torch.tensor([row.numbers for row in found], dtype=torch.float32).reshape(-1, 2),
        torch.tensor([row.score for row in found], dtype=torch.float32),
        tuple(tuple(row.said) for row in found),
        cost,
    )


class Prefix:
    """Begin token, image and opening of B images, run once.

    Args:
        model: in evaluation mode.
        image_tokens: [B, N, D].
        opening: begin token and what is the same for all questions.
        cost: counters to update.

    Attributes:
        length: P, positions.
    """

    def __init__(self, model: CapeLlm, image_tokens: Tensor, opening: Sequence[int], cost: DecodingCost) -> None:
        self.model = model
        ids = torch.tensor([list(opening)], device=model.device).expand(len(image_tokens), -1)
        embeddings = model.embed(ids, image_tokens)
        images, self.length = embeddings.shape[:2]
        positions = torch.arange(self.length, device=model.device).expand(images, -1)
        self._cache: Any = DynamicCache()
        model.read(embeddings, torch.ones_like(positions), positions, self._cache, last=True)
        cost.prompt_tokens += images * self.length
        cost.steps += 1

    def rows(self, images: Sequence[int]) -> DynamicCache:
        """Keys and values for a batch whose rows ask about these images."""
        index = torch.tensor(images, device=self.model.device)
        return DynamicCache([(layer.keys[index], layer.values[index]) for layer in self._cache.layers])


class Batch:
    """R sequences that go on from prefixes, a piece at a time.

    Args:
        prefix: of the images.
        images: for each row, the image that it asks about.
    """

    def __init__(self, prefix: Prefix, images: Sequence[int]) -> None:
        self._model = prefix.model
        self._cache = prefix.rows(images)
        rows, device = len(images), prefix.model.device
        self._mask = torch.ones(rows, prefix.length, dtype=torch.long, device=device)
        self._positions = torch.full((rows,), prefix.length, device=device)

    def run(self, pieces: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Runs the next tokens of every row; they may differ in number, and may be none.

        Returns:
            Logits [R, V] and states [R, D] after each row's last token.
        """
        device = self._mask.device
        ids, real, offsets = (torch.from_numpy(array).to(device) for array in padded_pieces(pieces))
        self._mask = torch.cat((self._mask, real), dim=1)
        positions = (self._positions[:, None] + offsets).clamp(min=0)
        output = self._model.read(self._model.embed(ids), self._mask, positions, self._cache, last=True)
        self._positions = self._positions + real.sum(1)
        return output.logits[:, -1], output.states[:, -1]


def _answer(
    prefix: Prefix,
    grammar: AnswerGrammar,
    images: Sequence[int],
    questions: Sequence[Sequence[int]],
    readout: Readout,
    cost: DecodingCost,
) -> list[SpokenAnswer]:
    """Asks the questions of one batch."""
    batch = Batch(prefix, images)
    rows = [begin_answer(question, grammar, readout) for question in questions]
    cost.prompt_tokens += sum(map(len, questions))
    while unfinished := [index for index, row in enumerate(rows) if not row.complete]:
        logits, _ = batch.run([row.pending for row in rows])
        cost.steps += 1
        for row in rows:
            row.pending.clear()
        decide([rows[index] for index in unfinished], logits[unfinished].float().cpu().numpy(), grammar, readout)
    # What is pending now is the answers' tails: nothing depends on them, and they never run.
    cost.answer_tokens += sum(len(row.said) - len(row.pending) for row in rows)
    return rows
