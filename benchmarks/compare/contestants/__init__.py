"""Those who are compared: ways to serve one model, all given the same weights, photographs and supports."""

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
"""Whether a request's support (its texts and its photograph) is encoded with every request, or once before."""


class AbsentError(RuntimeError):
    """A contestant that cannot take part here; the message says why."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way to serve the model.

    Attributes:
        name: what tables call it.
        support: whether it computes the support with every request.
        precision: of the backbone.
        ask: answers the photograph of `queries[index]`: keypoints [K, 2] in its pixels. A second number other than 0
            is made part of the support's texts, so that no cache knows them; without effect where the support is kept.
            Blocks; may be called by `callers` threads at a time.
        callers: 1 for a model in this process, which can do one thing at a time.
        turn: entered while it is its turn; outside, it must not use the processors.
    """

    name: str
    support: Support
    precision: str
    ask: Callable[[int, int], Points]
    callers: int
    turn: Callable[[], AbstractContextManager[None]] = nullcontext


def queries(work: Workload, count: int) -> list[Workload]:
    """Different queries of one photograph: its box, moved by 3 pixels each time."""
    from dataclasses import replace

    return [
        replace(work, boxes=tuple(replace(box, x=box.x + 3 * index, y=box.y + 3 * index) for box in work.boxes))
        for index in range(count)
    ]
