"""Runs of the engine: batch items stacked into one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cape.manifest import Manifest
from service.batching.queues import BatchItem
from service.engines.base import Engine
from service.errors import EngineError


def run_batch(engine: Engine, batch: Sequence[BatchItem]) -> dict[str, npt.NDArray[Any]]:
    """Stacks batch items and runs them. Blocks: call it in a thread.

    Args:
        engine: runs the component of the items.
        batch: items with equal batch keys.

    Returns:
        Outputs by name, batched along the first axis.

    Raises:
        EngineError: the engine failed, or an output does not have one entry per item.
    """
    first = batch[0]
    if len(batch) == 1:
        inputs = {name: array[np.newaxis] for name, array in first.inputs.items()}
    else:
        inputs = {name: np.stack([item.inputs[name] for item in batch]) for name in first.inputs}
    outputs = engine.run(first.component, inputs, first.outputs)
    for name in first.outputs:
        if name not in outputs or len(outputs[name]) != len(batch):
            raise EngineError(first.component, f"no {name!r} for each of {len(batch)} items")
    return outputs


def takes_images(manifest: Manifest, component: str) -> bool:
    """Whether batch items of a component are crops."""
    return any(tensor.name == "image" and tensor.dtype == "uint8" for tensor in manifest.components[component].inputs)
