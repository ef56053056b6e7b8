"""Prompts of the language model (CapeLLM, section 3.2, Figures 2 and 5).

A conversation is a sequence of segments. The assistant's segments end with the end token and are the training
targets; the last one holds the coordinates. The part shared by all keypoints of a request comes first, so that it is
computed once. The base instruction is worded as in the public code. The variants' wording is ours, because the paper
shows only figures of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cape.capellm.configuration import InstructionConfiguration
from cape.support import KeypointDefinition

QUESTIONS = (
    "Where is the {name} of this object in this image? Please provide its coordinates.",
    "Can you locate the {name} of this object in this image? Please give its coordinates.",
    "Please find the {name} of the object shown here. What are its coordinates?",
    "At which coordinates of this image is the {name} of this object?",
    "What are the coordinates of the {name} of this object?",
    "Give the coordinates of the {name} of the object in this image.",
    "Locate the {name} of this object and state its coordinates.",
    "Could you point out where the {name} of this object is? Please give coordinates.",
    "In this image, where is the {name}? Please answer with its coordinates.",
    "Please state the position of the {name} of this object as coordinates.",
    "Find the {name} in this image and tell me its coordinates.",
    "I am looking for the {name} of this object. What are its coordinates?",
    "Tell me where the {name} of this object can be found, as coordinates.",
    "What is the location of the {name} of the object? Please provide its coordinates.",
    "Identify the {name} of this object and provide its coordinates.",
    "Where can I see the {name} of this object? Please give its coordinates.",
    "Please determine the coordinates of the {name} of the object in this image.",
    "Which coordinates does the {name} of this object have?",
    "Mark the {name} of this object. What are its coordinates in the image?",
    "Can you tell me the coordinates of the {name} shown in this image?",
    "Look at the object in this image. Where is its {name}? Please provide coordinates.",
    "Provide the image coordinates of the {name} of this object.",
    "Please detect the {name} of this object and report its coordinates.",
    "Where exactly is the {name} of this object? Answer with its coordinates.",
    "At what point of the image is the {name} of the object? Please give its coordinates.",
)
"""The first is the paper's question. For diverse questions the public code draws from 25 wordings (Appendix B.1); the
other 24 here are ours."""

OUTLINE = (
    "This is a conversation about where keypoints of an object are in an image. The user names a keypoint, and the "
    "assistant answers with its coordinates x and y as fractions of the image.\n"
)


class Segment(NamedTuple):
    """A segment of a conversation.

    Attributes:
        text: its text.
        spoken: whether it is the assistant's; an end token then follows.
    """

    text: str
    spoken: bool = False


def opening(
    configuration: InstructionConfiguration, category: str, keypoints: Sequence[KeypointDefinition]
) -> tuple[Segment, ...]:
    """Returns the segments before the first question, which all keypoints of a support share.

    Args:
        configuration: of the instruction.
        category: name of the category; used only by the step-by-step instruction.
        keypoints: all keypoints of the support.
    """
    segments: list[Segment] = [Segment("\n")] if configuration.newline else []
    if configuration.outline:
        segments.append(Segment(OUTLINE))
    if configuration.keypoint_list:
        names = ", ".join(keypoint.name for keypoint in keypoints)
        segments.append(Segment(f"The keypoints of this object are: {names}.\n"))
    if configuration.style == "step_by_step":
        segments += [Segment("User: What is the object in this image?\nAssistant:"), Segment(f" {category}", True)]
    return tuple(segments)


def question(
    configuration: InstructionConfiguration, keypoint: KeypointDefinition, wording: int = 0
) -> tuple[Segment, ...]:
    """Returns the segments before a keypoint's coordinates: one round, or two in the step-by-step instruction.

    Args:
        configuration: of the instruction.
        keypoint: the keypoint asked for; without a description there is no reference line.
        wording: index into `QUESTIONS`.
    """
    asked = QUESTIONS[wording].format(name=keypoint.name)
    described = configuration.descriptions and bool(keypoint.description)
    if configuration.style == "step_by_step":
        before = (
            Segment(f"User: What is the {keypoint.name} of this object?\nAssistant:"),
            Segment(f" {keypoint.description}", True),
        )
        return (*(before if described else ()), Segment(f"User: {asked}\nAssistant:"))
    reference = f"Reference: {keypoint.description}\n" if described else ""
    return (Segment(f"User: {asked}\n{reference}Assistant:"),)
