"""Which tokens may follow while coordinates are spoken: decoding that cannot go wrong and skips what is certain.

The answer " [0.ddd,0.ddd]" has two places where anything is to be decided: its digits. How a vocabulary writes a
number differs (Llama 3: one token; Mistral: three), so the 1000 spellings make a tree; where a node has one child
alone, that token is forced and costs no decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cape.capellm.coordinates import ANSWER_HEAD, ANSWER_MIDDLE, ANSWER_TAIL, PLACES
from cape.capellm.tokenizer import CapeLlmTokenizer


class GrammarError(ValueError):
    """A vocabulary that runs digits and punctuation together, so that coordinates cannot be spelt apart."""


@dataclass(eq=False, slots=True)
class NumberNode:
    """A beginning of a number's spelling.

    Attributes:
        children: what may follow, by token; empty where the number is complete.
        centre: mean value, 0–1, of the numbers that begin like this; the value itself where complete.
        tokens: int64 [n], the children's tokens, and
        centres: float64 [n], their centres, in the same order.
    """

    children: dict[int, NumberNode] = field(default_factory=dict)
    centre: float = 0.0
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    centres: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def forced(self) -> tuple[tuple[int, ...], NumberNode]:
        """The tokens that follow whatever is decided, and the node behind them."""
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
        GrammarError: a token spans digits and what stands beside them.
    """

    def __init__(self, tokenizer: CapeLlmTokenizer) -> None:
        self.head = tokenizer.encode(ANSWER_HEAD)
        self.middle = tokenizer.encode(ANSWER_MIDDLE)
        self.tail = tokenizer.encode(ANSWER_TAIL)
        self.numbers = NumberNode()
        for number in range(PLACES):
            digits = tokenizer.encode(f"{number:03d}")
            whole = tokenizer.encode(f"{ANSWER_HEAD}{number:03d}{ANSWER_MIDDLE}{number:03d}{ANSWER_TAIL}")
            # Only then is the constrained spelling the one that the model was trained to speak.
            if whole != (*self.head, *digits, *self.middle, *digits, *self.tail):
                raise GrammarError(f"this vocabulary writes 0.{number:03d} with tokens that span more than its digits")
            node = self.numbers
            for token in digits:
                node = node.children.setdefault(token, NumberNode())
            node.centre = number / PLACES
        _finish(self.numbers)


def _finish(node: NumberNode) -> int:
    """Fills in centres from the leaves up; returns how many numbers there are beneath."""
    if not node.children:
        return 1
    counts = [_finish(child) for child in node.children.values()]
    node.tokens = np.fromiter(node.children, np.int64)
    node.centres = np.array([child.centre for child in node.children.values()])
    node.centre = float(np.average(node.centres, weights=counts))
    return sum(counts)
