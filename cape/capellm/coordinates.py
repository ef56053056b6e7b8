"""Coordinates as text, and back: fractions of the crop with three decimals (CapeLLM, section 3.2)."""

from __future__ import annotations

import re

PLACES = 1000
"""Values that a coordinate can have: 0.000 to 0.999."""

ANSWER_HEAD = " [0."
ANSWER_MIDDLE = ",0."
ANSWER_TAIL = "]"
"""The constant text around the digits."""

ANSWER_PATTERN = r" \[0\.[0-9]{3},0\.[0-9]{3}\]"
"""Answers as a regular expression, for servers with constrained decoding."""

KEYPOINT_TOKEN = "<KEYPOINT>"
"""Answer of models that give coordinates by a token (Appendix B.2)."""

_ANSWER = re.compile(r"\s*\[0\.(\d{3}),0\.(\d{3})\]\s*")


def thousandths(value: float) -> int:
    """Converts a fraction 0–1 to 0–999. The edge, 1.000, becomes 0.999."""
    return min(max(round(value * PLACES), 0), PLACES - 1)


def coordinates_text(x: float, y: float) -> str:
    """Formats an answer: " [0.123,0.456]"."""
    return f"{ANSWER_HEAD}{thousandths(x):03d}{ANSWER_MIDDLE}{thousandths(y):03d}{ANSWER_TAIL}"


def parse_coordinates(text: str) -> tuple[float, float] | None:
    """Parses an answer; None if it is malformed."""
    match = _ANSWER.fullmatch(text)
    return None if match is None else (int(match[1]) / PLACES, int(match[2]) / PLACES)
