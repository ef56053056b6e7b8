"""Files that may be replaced while the server runs: certificates and API tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

State = tuple[tuple[int, int, int], ...]
"""Of each file: modification time in nanoseconds, size in bytes, and inode."""


class FileChanges:
    """Detects changes of a set of files.

    Kubernetes replaces a mounted Secret by pointing a symbolic link at a new folder, so links are followed.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._state()

    def changed(self) -> bool:
        """Whether a file has changed since the last call; False while one is missing, as during a replacement."""
        try:
            now = self._state()
        except OSError:
            return False
        changed = now != self._seen
        self._seen = now
        return changed

    @property
    def missing(self) -> bool:
        """Whether one of the files does not exist. Other errors, such as a file system that is away, do not count."""
        for path in self._paths:
            try:
                path.stat()
            except FileNotFoundError:
                return True
            except OSError:
                continue
        return False

    def _state(self) -> State:
        """Raises OSError where a file cannot be examined."""
        stats = [path.stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
