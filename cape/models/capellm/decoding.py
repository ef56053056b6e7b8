"""All keypoints of a request as one batch over a shared prefix, and no step for what is certain.

The plain way runs image and question once a keypoint and then a step a token. Here begin token, image and opening run
once an image; their keys and values serve every keypoint. The questions run as the rows of one batch. Of the answer
only digits are decided (`cape.capellm.grammar`), the rest rides along with the digits before it. In a vocabulary like
Llama 3's a keypoint so costs its question and one further step. Greedy answers are those of plain greedy decoding
wherever that is well-formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformers import DynamicCache

from cape.capellm.grammar import AnswerGrammar, NumberNode
from cape.models.capellm.model import CapeLlm

Readout: TypeAlias = Literal["greedy", "expectation"]
"""The most probable digits, or the mean over digits weighted by probability."""

ROWS_AT_ONCE = 128
"""Questions in one batch: what bounds memory, for every row carries the prefix's keys and values."""


@dataclass(slots=True)
class DecodingCost:
    """What answers cost.

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
        scores: float32 [R], mean probability of what was decided (public CapeLLM code).
        answers: the tokens of each answer, without its end token.
        cost: what they cost.
    """

    keypoints: Tensor
    scores: Tensor
    answers: tuple[tuple[int, ...], ...]
    cost: DecodingCost


@dataclass(slots=True)
class _Row:
    """An answer while it is spoken.

    Attributes:
        pending: tokens that are certain and have not run yet.
        said: all tokens of the answer.
        node: where in the spelling of the present number it is.
        numbers: coordinates that are complete.
        expected, weight: expectation of the present number over the branches left, and probability of the taken one.
        probabilities: of what was decided.
    """

    pending: list[int]
    said: list[int]
    node: NumberNode
    numbers: list[float] = field(default_factory=list)
    expected: float = 0.0
    weight: float = 1.0
    probabilities: list[float] = field(default_factory=list)

    def say(self, tokens: Sequence[int]) -> None:
        self.pending += tokens
        self.said += tokens


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
    found: list[_Row] = []
    pairs = [(image, question) for image in range(len(image_tokens)) for question in questions]
    for start in range(0, len(pairs), rows_at_once):
        chosen = pairs[start : start + rows_at_once]
        found += _answer(prefix, grammar, [image for image, _ in chosen], [asked for _, asked in chosen], readout, cost)
    return Located(
        torch.tensor([row.numbers for row in found], dtype=torch.float32).reshape(-1, 2),
        torch.tensor([sum(row.probabilities) / len(row.probabilities) for row in found], dtype=torch.float32),
        tuple(tuple(row.said) for row in found),
        cost,
    )


class Prefix:
    """Begin token, image and opening of B images, run once.

    Args:
        model: in evaluation mode.
        image_tokens: [B, N, D].
        opening: begin token and what is the same for all questions.
        cost: is told of it.

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
        length = max(len(piece) for piece in pieces)
        # Padding stands on the left, so that every row's last token is in the last place.
        ids = torch.tensor([[0] * (length - len(piece)) + list(piece) for piece in pieces], device=device)
        counts = torch.tensor([len(piece) for piece in pieces], device=device)
        real = torch.arange(length, device=device) >= length - counts[:, None]
        offsets = torch.arange(length, device=device) - (length - counts[:, None])
        self._mask = torch.cat((self._mask, real.long()), dim=1)
        positions = (self._positions[:, None] + offsets).clamp(min=0)
        output = self._model.read(self._model.embed(ids), self._mask, positions, self._cache, last=True)
        self._positions = self._positions + counts
        return output.logits[:, -1], output.states[:, -1]


def _answer(
    prefix: Prefix,
    grammar: AnswerGrammar,
    images: Sequence[int],
    questions: Sequence[Sequence[int]],
    readout: Readout,
    cost: DecodingCost,
) -> list[_Row]:
    """Asks the questions of one batch."""
    batch = Batch(prefix, images)
    rows = []
    for question in questions:
        row = _Row(list(question), [], grammar.numbers)
        row.say(grammar.head)
        _follow(row, grammar, readout)
        rows.append(row)
    cost.prompt_tokens += sum(map(len, questions))
    while unfinished := [index for index, row in enumerate(rows) if len(row.numbers) < 2]:
        logits, _ = batch.run([row.pending for row in rows])
        cost.steps += 1
        for row in rows:
            row.pending.clear()
        _decide([rows[index] for index in unfinished], logits[unfinished], grammar, readout)
    # What is pending now is the answers' tails: nothing depends on them, and they never run.
    cost.answer_tokens += sum(len(row.said) - len(row.pending) for row in rows)
    return rows


def _decide(rows: Sequence[_Row], logits: Tensor, grammar: AnswerGrammar, readout: Readout) -> None:
    """Takes the best token that each row may say; rows at the same node are looked at together."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(id(row.node), []).append(index)
    for members in groups.values():
        node = rows[members[0]].node
        allowed = torch.from_numpy(node.tokens).to(logits.device)
        some = logits[members].float()
        probabilities = (some[:, allowed] - some.logsumexp(1, keepdim=True)).exp()
        best = probabilities.argmax(1).tolist()
        shares = (probabilities / probabilities.sum(1, keepdim=True)).double()
        means = (shares.cpu() @ torch.from_numpy(node.centres)).tolist()
        for place, index in enumerate(members):
            row, choice = rows[index], best[place]
            taken = float(shares[place, choice])
            row.probabilities.append(float(probabilities[place, choice]))
            # Branches not taken count with their centre; the taken one is refined by its own digits.
            row.expected += row.weight * (means[place] - taken * float(node.centres[choice]))
            row.weight *= taken
            token = int(node.tokens[choice])
            row.node = node.children[token]
            row.say([token])
            _follow(row, grammar, readout)


def _follow(row: _Row, grammar: AnswerGrammar, readout: Readout) -> None:
    """Appends what is certain now, up to the next decision or the end of the answer."""
    run, row.node = row.node.forced()
    row.say(run)
    if row.node.children:
        return
    value = row.node.centre
    row.numbers.append(row.expected + row.weight * value if readout == "expectation" else value)
    row.node, row.expected, row.weight = grammar.numbers, 0.0, 1.0
    row.say(grammar.middle if len(row.numbers) == 1 else grammar.tail)
