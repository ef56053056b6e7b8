"""Arrays that are needed again and again, kept up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Kept(Generic[_Value]):
    """Values by number, the least recently used ones dropped first.

    The test pairs of a category use each of its objects some 16 times (200 episodes of 16 objects out of about
    200), so what is kept saves most of the reading and most of the backbone passes.

    Args:
        max_bytes: how much is kept.
        size: bytes of a value.
    """

    def __init__(self, max_bytes: int, size: Callable[[_Value], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._values: OrderedDict[int, _Value] = OrderedDict()
        self._bytes = 0

    def get(self, key: int) -> _Value | None:
        """The value of a key; None where it is not kept."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: int, value: _Value) -> None:
        """Keeps a value, unless it is larger than all that may be kept."""
        size = self._size(value)
        if size > self._max_bytes:
            return
        if key in self._values:
            self._bytes -= self._size(self._values.pop(key))
        self._values[key] = value
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, dropped = self._values.popitem(last=False)
            self._bytes -= self._size(dropped)
