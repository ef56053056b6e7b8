"""Changed texts for keypoints: misspelt, reworded or meaningless. Deterministic given the generator."""

from __future__ import annotations

import random
import re
import string

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

_WORD = re.compile(r"[A-Za-z]{3,}")
"""Words that may get a typo; shorter ones would become unrecognisable."""

_SIDE = re.compile(r"^(left|right)\s+(.+)$", re.IGNORECASE)


def misspelt(text: str, generator: random.Random) -> str:
    """Adds one typo: two letters swapped, one omitted, one doubled, or a neighbouring key.

    A text without a word of three or more letters is returned unchanged.
    """
    words = list(_WORD.finditer(text))
    if not words:
        return text
    word = generator.choice(words)
    changed = word[0]
    while changed.lower() == word[0].lower():  # swapping two equal letters changes nothing
        changed = _typo(word[0], generator)
    return text[: word.start()] + changed + text[word.end() :]


def _typo(word: str, generator: random.Random) -> str:
    kind = generator.choice(("swap", "omit", "double", "neighbour"))
    # First letters are rarely mistyped.
    place = generator.randrange(1, len(word))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    if kind == "swap":
        return word[: place - 1] + letter + word[place - 1] + after
    if kind == "omit":
        return before + after
    if kind == "double":
        return before + letter * 2 + after
    return before + generator.choice(_neighbours(letter)) + after


def _neighbours(letter: str) -> str:
    """Returns the keys left and right of a letter on a QWERTY keyboard."""
    for row in _ROWS:
        if (place := row.find(letter.lower())) >= 0:
            return row[max(0, place - 1) : place] + row[place + 1 : place + 2]
    return string.ascii_lowercase


def reworded(text: str, category: str, generator: random.Random) -> str:
    """Rewords a text by rule, for data without written paraphrases.

    "left front paw" becomes "the front paw on the left side", "nose" "the nose of the cat".
    """
    match = _SIDE.match(text)
    forms = [f"the {text} of the {category}", f"position of the {text}", f"where the {text} is"]
    if match:
        forms += [f"the {match[2]} on the {match[1].lower()} side", f"{match[2]}, {match[1].lower()}"]
    return generator.choice(forms)


def meaningless(index: int) -> str:
    """Returns a text without meaning: a number."""
    return f"keypoint {index + 1}"
