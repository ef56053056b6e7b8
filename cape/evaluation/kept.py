"""A cache of arrays, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Kept(Generic[_Value]):
    """LRU cache of values by integer key, bounded in bytes.

    The test pairs of a category use each of its objects some 16 times (200 episodes of 16 objects out of about
    200), so the cache saves most reads and most backbone passes.

    Args:
        max_bytes: capacity.
        size: returns the bytes of a value.
    """

    def __init__(self, max_bytes: int, size: Callable[[_Value], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._values: OrderedDict[int, _Value] = OrderedDict()
        self._bytes = 0

    def get(self, key: int) -> _Value | None:
        """Returns a cached value, or None."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: int, value: _Value) -> None:
        """Caches a value, unless it is larger than the whole capacity."""
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
