"""Measures an engine alone, without network, queues and decoding: `capeserve bench engine`.

Two latencies, as the multi-modal paper measures (batch 1, 100 runs after warm-up): cold, a query with a new support
image and new texts, as in its Table 5; warm, a query whose support is cached. And throughput: warm queries per second
by batch size.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cape.manifest import Manifest, Role
from service.engines.base import Engine, query_models
from service.engines.choice import load_engine
from service.telemetry.performance import PAPER, Percentiles

TOKENS = 8
"""Tokens of each keypoint's text: a short name, padded as the service pads."""

Arrays = Mapping[str, npt.NDArray[Any]]

Progress = Callable[[str, int, int], None]
"""Called with what is being measured, steps done and total steps."""


@dataclass(frozen=True, slots=True)
class SystemSpeed:
    """One system on one engine.

    Attributes:
        system: which one.
        engine: what ran it: "onnxruntime:CUDAExecutionProvider".
        cold: seconds of a query that brings a new support.
        warm: seconds of a query whose support is cached.
        throughput: warm queries per second, by batch size.
    """

    system: str
    engine: str
    cold: Percentiles
    warm: Percentiles
    throughput: Mapping[int, float]

    @property
    def paper_seconds(self) -> float | None:
        """The paper's RTX 3060, cold; None for a system that Table 5 does not have."""
        return PAPER[self.system].seconds if self.system in PAPER else None


class Workload:
    """The engine runs of a query, on inputs of the right shapes.

    Values do not affect the time of a run: images are noise, texts random token ids.

    Args:
        engine: runs them.
        manifest: of what it has loaded.
        system: a system of the manifest.
        keypoints: K of the support.
    """

    def __init__(self, engine: Engine, manifest: Manifest, system: str, keypoints: int) -> None:
        self.system = system
        self._engine, self._manifest = engine, manifest
        self._spec = manifest.systems[system]
        self._keypoints = keypoints
        self._padded = manifest.bucket(keypoints)
        self._random = np.random.default_rng(0)
        self._query = query_models(engine, manifest).get(system)
        self._made: dict[tuple[Role, tuple[tuple[str, int], ...]], dict[str, npt.NDArray[Any]]] = {}

    def cold(self) -> None:
        """Runs a support image, its texts, their fusion, a query image and its pose, at batch 1."""
        available: dict[str, npt.NDArray[Any]] = {}
        if "text_encoder" in self._spec.components:
            available |= self._run(
                "text_encoder", self._inputs("text_encoder", self._keypoints, {"K": 1}), ["embeddings"]
            )
            width = available["embeddings"].shape[-1]
            padded = np.zeros((1, self._padded, width), np.float32)
            padded[0, : self._keypoints] = available["embeddings"][:, 0]
            available["embeddings"] = padded
        fusion = self._inputs("support_fusion", 1)
        if "features" in fusion:
            features = self._run("image_backbone", self._inputs("image_backbone", 1), ["features"])["features"]
            available["features"] = features[np.newaxis]
        tokens = self._run("support_fusion", {**fusion, **available}, ["support_tokens", "mask"])
        self.warm(1, tokens)

    def warm(self, batch: int, tokens: Arrays | None = None) -> None:
        """Runs query images and their poses.

        Args:
            batch: how many.
            tokens: `support_tokens` and `mask`; None: any.
        """
        inputs = {**self._inputs("image_backbone", batch), **self._inputs("pose_decoder", batch), **(tokens or {})}
        wanted = ["keypoints", "scores"]
        if self._query is not None:
            inputs.pop("features")
            self._engine.run(self._query, inputs, wanted)
            return
        image = inputs.pop("image")
        inputs |= self._run("image_backbone", {"image": image}, ["features"])
        self._run("pose_decoder", inputs, wanted)

    def _run(self, role: Role, inputs: Arrays, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        return self._engine.run(self._spec.components[role], inputs, outputs)

    def _inputs(self, role: Role, batch: int, sizes: Mapping[str, int] | None = None) -> dict[str, npt.NDArray[Any]]:
        bound = {"B": batch, "K": self._padded, "S": 1, "T": TOKENS, **(sizes or {})}
        key = role, tuple(bound.items())
        if key not in self._made:
            # Once: drawing random images takes longer than a GPU needs for them.
            self._made[key] = self._random_inputs(role, bound)
        return dict(self._made[key])

    def _random_inputs(self, role: Role, bound: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
        found: dict[str, npt.NDArray[Any]] = {}
        for spec in self._manifest.components[self._spec.components[role]].inputs:
            shape = tuple(bound[size] if isinstance(size, str) else size for size in spec.shape)
            if spec.name == "image":
                found[spec.name] = self._random.integers(0, 256, shape, dtype=np.uint8)
            elif spec.dtype == "int64":
                found[spec.name] = np.ones(shape, np.int64)
            else:
                found[spec.name] = np.full(shape, 0.5 if spec.name == "keypoints" else 1.0, np.float32)
        return found


def open_engine(repository: Path, manifest: Manifest, settings: Mapping[str, Any]) -> Engine:
    """Opens the engine that a server with these settings would run.

    Raises:
        EngineError: as `load_engine`.
    """
    return load_engine(
        settings.get("engine", "auto"),
        repository,
        manifest,
        threads=settings.get("threads"),
        providers=settings.get("providers", ()),
        precision=settings.get("precision", "float32"),
    )


def measure_system(
    engine: Engine,
    manifest: Manifest,
    system: str,
    *,
    keypoints: int = 17,
    runs: int = 100,
    warm_up: int = 10,
    batches: Sequence[int] = (1, 2, 4, 8, 16),
    progress: Progress = lambda step, done, total: None,
) -> SystemSpeed:
    """Measures one system.

    Args:
        engine: has loaded the repository.
        manifest: of the repository.
        system: a system of the manifest.
        keypoints: K of the support.
        runs: measured runs of each kind.
        warm_up: runs before them, of each kind and batch size.
        batches: batch sizes to measure throughput at; those above the components' largest are left out.
        progress: called at every step.
    """
    workload = Workload(engine, manifest, system, keypoints)
    components = manifest.systems[system].components
    largest = min(manifest.components[components[role]].max_batch_size for role in ("image_backbone", "pose_decoder"))
    sizes = [batch for batch in batches if batch <= largest]
    steps = len(sizes) + 2
    progress(f"{system}, cold", 0, steps)
    cold = Percentiles.of(seconds_of(workload.cold, runs, warm_up))
    progress(f"{system}, warm", 1, steps)
    warm = Percentiles.of(seconds_of(lambda: workload.warm(1), runs, warm_up))
    throughput = {}
    for done, batch in enumerate(sizes, start=2):
        progress(f"{system}, batches of {batch}", done, steps)
        run = functools.partial(workload.warm, batch)
        times = seconds_of(run, max(3, runs // batch), max(1, warm_up // batch))
        throughput[batch] = batch / float(np.median(times))
    progress(f"{system}, done", steps, steps)
    return SystemSpeed(system, engine.description, cold, warm, throughput)


def seconds_of(run: Callable[[], None], runs: int, warm_up: int) -> list[float]:
    """Seconds of each of `runs` runs, after the warm-up."""
    for _ in range(warm_up):
        run()
    measured = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        measured.append(time.perf_counter() - started)
    return measured
