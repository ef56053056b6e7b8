"""Tokenised prompts of a support, shared by PyTorch and the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cape.capellm.configuration import InstructionConfiguration
from cape.capellm.instructions import opening, question
from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.support import KeypointDefinition


class Prompts(NamedTuple):
    """Tokenised prompts of a support.

    Attributes:
        opening: begin token and the part shared by all keypoints.
        questions: for each keypoint, the tokens before its answer.
    """

    opening: tuple[int, ...]
    questions: tuple[tuple[int, ...], ...]


def prompts_of(
    tokenizer: CapeLlmTokenizer,
    instruction: InstructionConfiguration,
    category: str,
    keypoints: Sequence[KeypointDefinition],
) -> Prompts:
    """Makes the prompts of a support. Its images are not used.

    Args:
        tokenizer: the vocabulary.
        instruction: format of the questions.
        category, keypoints: the support's.
    """
    shared = tokenizer.tokens(opening(instruction, category, keypoints)).ids
    return Prompts(
        (tokenizer.begin, *shared),
        tuple(tokenizer.tokens(question(instruction, keypoint)).ids for keypoint in keypoints),
    )
