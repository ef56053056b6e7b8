"""Text from others, made safe to print: names of a support may hold terminal escapes."""

from __future__ import annotations

import unicodedata

UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode categories that a terminal may act on: control characters, direction marks, line separators."""


def printable(text: str) -> str:
    """A text with every character that a terminal may act on written as an escape: '\\x1b' for ESC."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii") if unicodedata.category(character) in UNSAFE else character
        for character in text
    )
