"""Constrained decoding of answers: forced tokens are appended without a decision, the others chosen by logits.

Free of torch, so that PyTorch and ONNX Runtime share the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cape.capellm.configuration import Readout
from cape.capellm.grammar import AnswerGrammar, NumberNode


@dataclass(slots=True)
class SpokenAnswer:
    """An answer that is being decoded.

    Attributes:
        pending: tokens that are fixed but have not been run through the model.
        said: all tokens of the answer.
        node: position in the spelling tree of the current number.
        numbers: completed coordinates.
        expected, weight: expectation of the current number over the branches not taken, and probability of the taken
            one.
        probabilities: probabilities of the decided tokens.
    """

    pending: list[int]
    said: list[int]
    node: NumberNode
    numbers: list[float] = field(default_factory=list)
    expected: float = 0.0
    weight: float = 1.0
    probabilities: list[float] = field(default_factory=list)

    def say(self, tokens: Sequence[int]) -> None:
        """Appends tokens to run with the next piece."""
        self.pending += tokens
        self.said += tokens

    @property
    def complete(self) -> bool:
        """Whether both coordinates are complete."""
        return len(self.numbers) == 2

    @property
    def score(self) -> float:
        """Mean probability of the decided tokens (public CapeLLM code)."""
        return sum(self.probabilities) / len(self.probabilities)

    def follow(self, grammar: AnswerGrammar, readout: Readout) -> None:
        """Appends forced tokens up to the next decision or the end."""
        run, self.node = self.node.forced()
        self.say(run)
        if self.node.children:
            return
        value = self.node.centre
        self.numbers.append(self.expected + self.weight * value if readout == "expectation" else value)
        self.node, self.expected, self.weight = grammar.numbers, 0.0, 1.0
        self.say(grammar.middle if len(self.numbers) == 1 else grammar.tail)


def begin_answer(question: Sequence[int], grammar: AnswerGrammar, readout: Readout) -> SpokenAnswer:
    """Starts an answer: the question and the forced tokens up to the first decision are pending."""
    answer = SpokenAnswer(list(question), [], grammar.numbers)
    answer.say(grammar.head)
    answer.follow(grammar, readout)
    return answer


def decide(
    answers: Sequence[SpokenAnswer], logits: npt.NDArray[np.float32], grammar: AnswerGrammar, readout: Readout
) -> None:
    """Appends the best allowed token to each answer. Answers at the same node are processed together.

    Args:
        answers: incomplete answers.
        logits: [len(answers), V].
        grammar: grammar of the vocabulary.
        readout: how digits are turned into a coordinate.
    """
    groups: dict[int, list[int]] = {}
    for index, answer in enumerate(answers):
        groups.setdefault(id(answer.node), []).append(index)
    for members in groups.values():
        node = answers[members[0]].node
        some = logits[members].astype(np.float64)
        some -= some.max(axis=1, keepdims=True)
        probabilities = np.exp(some[:, node.tokens]) / np.exp(some).sum(axis=1, keepdims=True)
        best = probabilities.argmax(axis=1)
        shares = probabilities / probabilities.sum(axis=1, keepdims=True)
        means = shares @ node.centres
        for place, index in enumerate(members):
            answer, choice = answers[index], int(best[place])
            taken = float(shares[place, choice])
            answer.probabilities.append(float(probabilities[place, choice]))
            # Branches not taken contribute their centre; later digits refine the taken one.
            answer.expected += answer.weight * (float(means[place]) - taken * float(node.centres[choice]))
            answer.weight *= taken
            token = int(node.tokens[choice])
            answer.node = node.children[token]
            answer.say([token])
            answer.follow(grammar, readout)


def padded_pieces(
    pieces: Sequence[Sequence[int]], multiple: int = 1
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Stacks token pieces to a batch, padded on the left so that all last tokens align.

    Args:
        pieces: tokens of R sequences.
        multiple: T is padded to a multiple of this number.

    Returns:
        ids int64 [R, T]; mask int64 [R, T], 1 on tokens; offsets int64 [R, T], from the first token of the sequence.
    """
    length = -(-max(len(piece) for piece in pieces) // multiple) * multiple
    ids = np.array([[0] * (length - len(piece)) + list(piece) for piece in pieces], np.int64)
    starts = length - np.array([len(piece) for piece in pieces], np.int64)
    offsets = np.arange(length) - starts[:, np.newaxis]
    return ids, (offsets >= 0).astype(np.int64), offsets
