"""The words of a support as tokens: what PyTorch and the service ask alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cape.capellm.configuration import InstructionConfiguration
from cape.capellm.instructions import opening, question
from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.support import KeypointDefinition


class Prompts(NamedTuple):
    """The words of a support as tokens.

    Attributes:
        opening: begin token and what all its keypoints share.
        questions: for each keypoint, all that stands before its answer.
    """

    opening: tuple[int, ...]
    questions: tuple[tuple[int, ...], ...]


def prompts_of(
    tokenizer: CapeLlmTokenizer,
    instruction: InstructionConfiguration,
    category: str,
    keypoints: Sequence[KeypointDefinition],
) -> Prompts:
    """The prompts of a support, of whose images nothing is used.

    Args:
        tokenizer: the vocabulary.
        instruction: how questions are put.
        category, keypoints: of the support.
    """
    shared = tokenizer.tokens(opening(instruction, category, keypoints)).ids
    return Prompts(
        (tokenizer.begin, *shared),
        tuple(tokenizer.tokens(question(instruction, keypoint)).ids for keypoint in keypoints),
    )
