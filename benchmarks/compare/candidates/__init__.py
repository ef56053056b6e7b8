"""The servers that are compared: one model, with the same weights, images and supports for each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.harness.workloads import Workload

Points = npt.NDArray[np.float32]

Support = Literal["computed", "kept"]
"""Whether the support (its texts and its image) is encoded with every request, or once beforehand."""


class AbsentError(RuntimeError):
    """A candidate cannot run on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to serve the model.

    Attributes:
        name: shown in tables.
        support: whether it computes the support with every request.
        precision: of the backbone.
        ask: answers `queries[index]` with keypoints [K, 2] in pixels of its image. A second argument other than 0
            is appended to the support's texts, so that no cache holds them; it has no effect with a kept support.
            Blocks; `callers` threads may call it at the same time.
        callers: concurrent callers; 1 for a model in this process.
        turn: entered while the candidate is measured; outside, it must not use the CPU.
    """

    name: str
    support: Support
    precision: str
    ask: Callable[[int, int], Points]
    callers: int
    turn: Callable[[], AbstractContextManager[None]] = nullcontext


def queries(work: Workload, count: int) -> list[Workload]:
    """Different queries of one image: its box, shifted by 3 pixels each time."""
    from dataclasses import replace

    return [
        replace(work, boxes=tuple(replace(box, x=box.x + 3 * index, y=box.y + 3 * index) for box in work.boxes))
        for index in range(count)
    ]
