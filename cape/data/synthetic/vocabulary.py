"""What keypoints are called in words: the same words for the same thing in every category.

A text encoder can only find the keypoints of a new category if it has learnt their words from others. So names are
looked up in one vocabulary, in which a "left front paw" is put together from a side, an end and a paw.
"""

from __future__ import annotations

import re
from functools import cache

from cape.data.synthetic.words import WORDS

_CHOICES = {
    "side": ("left", "right"),
    "end": ("front", "back"),
    "level": ("upper", "lower"),
    "height": ("top", "bottom"),
    "edge": ("outer", "inner"),
    "pair": ("front", "middle", "back", "first", "second", "third", "fourth"),
    "number": ("first", "second", "third"),
    "finger": ("thumb", "index finger", "middle finger", "ring finger", "little finger"),
    "top": ("seat", "tabletop", "mattress"),
    "rest": ("backrest", "headboard"),
    "part": ("rim", "foot"),
}
"""Placeholders of the vocabulary and what each may stand for."""


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    """Each name as a pattern with a group per placeholder, and its texts."""
    found = []
    for name, texts in WORDS.items():
        pattern = re.sub(r"{(\w+)}", lambda match: f"(?P<{match[1]}>{'|'.join(_CHOICES[match[1]])})", name)
        found.append((re.compile(pattern), texts))
    return tuple(found)


@cache
def describe(name: str) -> tuple[str, ...]:
    """The description of a keypoint and two or three paraphrases of it.

    Raises:
        KeyError: the vocabulary has no such name.
    """
    for pattern, texts in _patterns():
        match = pattern.fullmatch(name)
        if match is not None:
            return tuple(text.format(**match.groupdict()) for text in texts)
    raise KeyError(name)
