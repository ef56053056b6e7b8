"""Image features: one pass of the image backbone per crop, of support images and query images alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cape.manifest import SystemManifest
from service.engines.base import BatchResult, BatchRunner
from service.process.tasks import all_of


async def image_features(
    runner: BatchRunner, system: SystemManifest, crops: Sequence[npt.NDArray[np.uint8]], deadline: float | None
) -> list[BatchResult]:
    """Runs a system's image backbone on crops.

    Args:
        runner: runs components.
        system: names the backbone.
        crops: RGB, uint8 [size, size, 3] each.
        deadline: event loop time by which the features are needed.

    Returns:
        One result per crop; its output `features` is float32 [C, F, F].

    Raises:
        DeadlineError, QueueFullError, EngineError: from the runner.
    """
    component = system.components["image_backbone"]
    return await all_of(runner.submit(component, {"image": crop}, ["features"], deadline) for crop in crops)
