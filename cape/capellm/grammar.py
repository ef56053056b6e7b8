"""Grammar of answers, for decoding that cannot produce malformed ones and skips forced tokens.

In the answer " [0.ddd,0.ddd]" only the digits are decided. Vocabularies tokenise numbers differently (Llama 3: one
token; Mistral: three), so the 1000 spellings form a tree. If a node has a single child, that token is forced and
needs no decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cape.capellm.coordinates import ANSWER_HEAD, ANSWER_MIDDLE, ANSWER_TAIL, PLACES
from cape.capellm.tokenizer import CapeLlmTokenizer


class GrammarError(ValueError):
    """The vocabulary merges digits with punctuation, so coordinates have no spelling of their own."""


@dataclass(eq=False, slots=True)
class NumberNode:
    """A node of the spelling tree: the first tokens of a number.

    Attributes:
        children: next nodes by token; empty if the number is complete.
        centre: mean value, 0–1, of the numbers below; the value itself if complete.
        tokens: int64 [n], the children's tokens.
        centres: float64 [n], the children's centres, in the same order.
    """

    children: dict[int, NumberNode] = field(default_factory=dict)
    centre: float = 0.0
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    centres: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def forced(self) -> tuple[tuple[int, ...], NumberNode]:
        """Returns the forced tokens from here, and the node after them."""
        run: list[int] = []
        node = self
        while len(node.children) == 1:
            ((token, node),) = node.children.items()
            run.append(token)
        return tuple(run), node


class AnswerGrammar:
    """The spelling of coordinates in one vocabulary.

    Args:
        tokenizer: the vocabulary.

    Attributes:
        head, middle, tail: tokens before x, between x and y, and after y.
        numbers: the root of the tree of the numbers 000 to 999.

    Raises:
        GrammarError: a token spans digits and adjacent characters.
    """

    def __init__(self, tokenizer: CapeLlmTokenizer) -> None:
        self.head = tokenizer.encode(ANSWER_HEAD)
        self.middle = tokenizer.encode(ANSWER_MIDDLE)
        self.tail = tokenizer.encode(ANSWER_TAIL)
        self.numbers = NumberNode()
        for number in range(PLACES):
            digits = tokenizer.encode(f"{number:03d}")
            whole = tokenizer.encode(f"{ANSWER_HEAD}{number:03d}{ANSWER_MIDDLE}{number:03d}{ANSWER_TAIL}")
            # Otherwise the constrained spelling would differ from the one that the model was trained on.
            if whole != (*self.head, *digits, *self.middle, *digits, *self.tail):
                raise GrammarError(f"this vocabulary writes 0.{number:03d} with tokens that span more than its digits")
            node = self.numbers
            for token in digits:
                node = node.children.setdefault(token, NumberNode())
            node.centre = number / PLACES
        _finish(self.numbers)


def _finish(node: NumberNode) -> int:
    """Fills in centres from the leaves up. Returns the number of leaves below."""
    if not node.children:
        return 1
    counts = [_finish(child) for child in node.children.values()]
    node.tokens = np.fromiter(node.children, np.int64)
    node.centres = np.array([child.centre for child in node.children.values()])
    node.centre = float(np.average(node.centres, weights=counts))
    return sum(counts)
