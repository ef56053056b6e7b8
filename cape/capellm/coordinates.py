"""Coordinates as text, and back: fractions of the crop with three decimals (CapeLLM, section 3.2)."""

from __future__ import annotations

import re

PLACES = 1000
"""Values that a coordinate can have: 0.000 to 0.999."""

ANSWER_HEAD = " [0."
ANSWER_MIDDLE = ",0."
ANSWER_TAIL = "]"
"""What stands around the digits, always the same."""

ANSWER_PATTERN = r" \[0\.[0-9]{3},0\.[0-9]{3}\]"
"""The same as a regular expression, for servers that can hold answers to one."""

KEYPOINT_TOKEN = "<KEYPOINT>"
"""Appendix B.2: the answer of models that give coordinates by a token."""

_ANSWER = re.compile(r"\s*\[0\.(\d{3}),0\.(\d{3})\]\s*")


def thousandths(value: float) -> int:
    """A fraction 0–1 as 0 to 999; the edge itself, 1.000, is written as 0.999."""
    return min(max(round(value * PLACES), 0), PLACES - 1)


def coordinates_text(x: float, y: float) -> str:
    """The answer to a question: " [0.123,0.456]"."""
    return f"{ANSWER_HEAD}{thousandths(x):03d}{ANSWER_MIDDLE}{thousandths(y):03d}{ANSWER_TAIL}"


def parse_coordinates(text: str) -> tuple[float, float] | None:
    """Reads an answer; None where it is not well-formed."""
    match = _ANSWER.fullmatch(text)
    return None if match is None else (int(match[1]) / PLACES, int(match[2]) / PLACES)
