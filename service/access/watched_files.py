"""Files that may be replaced while the server runs: certificates, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

State = tuple[tuple[int, int, int], ...]
"""Of each file: time of its last change in nanoseconds, size, and number on the disk."""


class WatchedFiles:
    """Tells whether any of some files has changed since it was last asked.

    Kubernetes replaces a mounted Secret by pointing a symbolic link elsewhere: what is looked at is where it points.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._state()

    def changed(self) -> bool:
        """Whether a file is another one than before; False while one is missing, as in the middle of a change."""
        try:
            now = self._state()
        except OSError:
            return False
        changed = now != self._seen
        self._seen = now
        return changed

    def _state(self) -> State:
        """Raises OSError where a file is missing."""
        stats = [path.stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
