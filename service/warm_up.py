"""Warm-up: runs every component once per batch size and keypoint bucket before the server becomes ready.

Engines allocate memory and choose or compile kernels when they first see a shape. Without a warm-up, the first callers
wait for that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cape.manifest import ComponentManifest, Manifest, Role
from service.engines.base import Engine
from service.errors import EngineError

MAX_SECONDS = 30.0
"""No further shape is tried after this time."""

MAX_BATCH = 4
"""Largest batch of components whose engine does not name a useful one; batches are powers of two."""

TOKENS = 16
"""Length of the texts, in tokens."""

ONES = frozenset({"attention_mask", "mask", "visible"})
"""Inputs that are 1 rather than 0: a text or a keypoint without anything in it may become NaN."""

logger = logging.getLogger(__name__)


def warm_up(engine: Engine, manifest: Manifest) -> int:
    """Runs the components of a repository on empty inputs. Blocks: call it in a thread.

    Language models are left out: their shapes depend on the texts.

    Args:
        engine: runs the components.
        manifest: of the repository that it has loaded.

    Returns:
        The number of runs.
    """
    started, runs = time.monotonic(), 0
    for component, batch, keypoints in _shapes(engine, manifest):
        if time.monotonic() - started > MAX_SECONDS:
            logger.warning("the warm-up ends after %.0f s; the first calls of other shapes may be slow", MAX_SECONDS)
            break
        spec = manifest.components[component]
        try:
            engine.run(component, _inputs(spec, batch, keypoints), [output.name for output in spec.outputs])
        except EngineError as error:
            logger.warning("warm-up of %s with batch %d: %s", component, batch, error)
        runs += 1
    logger.info("warm-up: %d runs in %.1f s", runs, time.monotonic() - started)
    return runs


def _shapes(engine: Engine, manifest: Manifest) -> Iterator[tuple[str, int, int]]:
    """Component, batch size and keypoints of every run; those that every query needs come first."""
    order: tuple[Role, ...] = ("image_backbone", "pose_decoder", "support_fusion", "text_encoder")
    for role in order:
        names = {
            system.components[role]: None for system in manifest.support_systems.values() if role in system.components
        }
        for name in names:
            spec = manifest.components[name]
            useful = engine.useful_batch if role == "image_backbone" and engine.useful_batch else MAX_BATCH
            batches = _powers_of_two(min(useful, spec.max_batch_size)) if role in order[:2] else [1]
            by_keypoints = any("K" in tensor.shape for tensor in spec.inputs)
            for keypoints in manifest.keypoint_buckets if by_keypoints else [1]:
                for batch in batches:
                    yield name, batch, keypoints


def _powers_of_two(largest: int) -> list[int]:
    return [1 << power for power in range(largest.bit_length()) if 1 << power <= largest]


def _inputs(spec: ComponentManifest, batch: int, keypoints: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs of a component: zeros, or ones for masks."""
    sizes = {"K": keypoints, "T": TOKENS}
    inputs = {}
    for tensor in spec.inputs:
        rest = [size if isinstance(size, int) else sizes.get(size, 1) for size in tensor.shape[1:]]
        make = np.ones if tensor.name in ONES else np.zeros
        inputs[tensor.name] = make((batch, *rest), dtype=tensor.dtype)
    return inputs
