"""Conversations to learn from: groups of keypoints of one image, a round each (section 3.3), and those of Appendix C.

The wording of the pre-training conversations is ours: the paper shows them in Figures 6 and 7 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cape.capellm.configuration import InstructionConfiguration
from cape.capellm.coordinates import KEYPOINT_TOKEN, coordinates_text
from cape.capellm.instructions import QUESTIONS, Segment, opening, question
from cape.data.dataset import Category
from cape.support import KeypointDefinition

Task: TypeAlias = Literal["keypoints", "direct_qa", "step_by_step_qa"]
"""What is trained: the instruction that is served, or a pre-training task of the projection (Appendix C)."""

CHOICES = 4
"""Keypoints that step-by-step pre-training offers to choose from."""


def groups(visible: Sequence[int], size: int, generator: np.random.Generator) -> list[list[int]]:
    """Keypoints in groups of a fixed size, in random order, so that none is left out (section 3.3).

    The last group is filled up by sampling from all of them, as the paper does it.

    Args:
        visible: indices of the keypoints that can be learnt from; at least one.
        size: rounds of a conversation.
        generator: draws order and filling.
    """
    order = generator.permutation(np.asarray(visible))
    filling = generator.choice(np.asarray(visible), size=-len(order) % size)
    return [group.tolist() for group in np.concatenate((order, filling)).reshape(-1, size)]


class ConversationWriter:
    """Writes what is said about one image.

    Args:
        instruction: of the model.
        task: what is trained.
        paraphrase: probability that a keypoint is described by another of its texts.
    """

    def __init__(
        self, instruction: InstructionConfiguration, task: Task = "keypoints", paraphrase: float = 0.0
    ) -> None:
        self._instruction = instruction
        self._task = task
        self._paraphrase = paraphrase

    def opening(self, category: Category) -> tuple[Segment, ...]:
        """What all rounds share."""
        if self._task == "direct_qa":
            return ()
        if self._task == "step_by_step_qa":
            return (
                Segment("User: What is the object in this image?\nAssistant:"),
                Segment(f" {category.name}", True),
            )
        return opening(self._instruction, category.name, category.keypoints)

    def round(
        self, category: Category, index: int, place: npt.NDArray[np.float32], generator: np.random.Generator
    ) -> tuple[Segment, ...]:
        """Question and answer about one keypoint.

        Args:
            category: of the image.
            index: of the keypoint.
            place: [2], x and y as fractions of the crop.
            generator: draws wording, paraphrase and choices.
        """
        keypoint = category.keypoints[index]
        coordinates = coordinates_text(float(place[0]), float(place[1]))
        if self._task == "direct_qa":
            asked = f"User: Which keypoint of this object is at{coordinates}?\nAssistant:"
            return (Segment(asked), Segment(f" {keypoint.name}", True))
        if self._task == "step_by_step_qa":
            return self._step_by_step(category, index, coordinates, generator)
        others = category.paraphrases[index] if index < len(category.paraphrases) else ()
        if others and generator.random() < self._paraphrase:
            keypoint = KeypointDefinition(keypoint.name, others[generator.integers(len(others))])
        wording = int(generator.integers(len(QUESTIONS))) if self._instruction.diverse_questions else 0
        answer = coordinates if self._instruction.answer == "text" else KEYPOINT_TOKEN
        return (*question(self._instruction, keypoint, wording), Segment(answer, True))

    def _step_by_step(
        self, category: Category, index: int, coordinates: str, generator: np.random.Generator
    ) -> tuple[Segment, ...]:
        """Is the keypoint there; which of these is at the place."""
        name = category.keypoints[index].name
        wrong = [other.name for number, other in enumerate(category.keypoints) if number != index]
        picked = generator.permutation(len(wrong))[: CHOICES - 1]
        offered = [name, *(wrong[number] for number in picked)]
        listed = ", ".join(offered[number] for number in generator.permutation(len(offered)))
        return (
            Segment(f"User: Is the {name} of this object in this image?\nAssistant:"),
            Segment(" Yes", True),
            Segment(f"User: Which of these keypoints is at{coordinates}: {listed}?\nAssistant:"),
            Segment(f" {name}", True),
        )
