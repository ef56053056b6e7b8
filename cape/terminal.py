"""Escapes untrusted text for terminals: names in supports may contain control sequences."""

from __future__ import annotations

import unicodedata

UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode categories that a terminal may interpret: control characters, direction marks, line separators."""


def printable(text: str) -> str:
    """Escapes every character that a terminal may interpret: '\\x1b' for ESC."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii") if unicodedata.category(character) in UNSAFE else character
        for character in text
    )
