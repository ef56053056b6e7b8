"""An event loop in which waiting takes no time, and an engine whose runs take time of its clock.

What is decided by times comes out the same on every machine, however busy, and minutes pass in seconds.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, sets the clock forward."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is not None and timeout > 0:
            self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while something runs and jumps to what is due next."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class VirtualEngine:
    """Takes so many seconds a batch and a row in the backbone, a tenth of that in the decoder, all more or less.

    Args:
        batch, row: seconds.
        spread: standard deviation of the logarithm of what a run takes.
    """

    description = "virtual"
    concurrency = 1
    useful_batch = None

    def __init__(self, batch: float, row: float, spread: float) -> None:
        self.batch, self.row, self.spread = batch, row, spread
        self.random = np.random.default_rng(0)

    def run(self, component: str, inputs: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        rows = len(next(iter(inputs.values())))
        return {name: np.zeros((rows, 1), np.float32) for name in outputs}

    def close(self) -> None:
        """Holds nothing."""


class VirtualPool:
    """In place of the batcher's threads: a run's result is there when its time is over."""

    def __init__(self, engine: VirtualEngine) -> None:
        self.engine = engine

    def submit(self, compute: Callable[..., Any], batch: Sequence[Any]) -> concurrent.futures.Future[Any]:
        seconds = self.engine.batch + self.engine.row * len(batch)
        if batch[0].component == "pose_decoder":
            seconds /= 10
        seconds *= float(np.exp(self.engine.spread * self.engine.random.standard_normal()))
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        result = compute(batch)
        asyncio.get_running_loop().call_later(seconds, future.set_result, result)
        return future

    def shutdown(self, wait: bool = False) -> None:
        """Has no threads."""
