"""What the batcher costs: `python -m benchmarks.batcher [--repository DIR]`.

Two questions. How long does a row take beyond its engine run? Asked of an engine that answers at once. And how much
of an engine's throughput reaches 16 callers who each wait for their answer before asking again? Asked of an engine
that sleeps 2 ms a batch and 1 ms a row, and of a real repository's image backbone where one is given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from cape.manifest import ComponentManifest, Manifest, SourceManifest, SystemManifest, TensorSpec, read_manifest
from service.batching.batcher import Batcher
from service.engines.base import Engine, Tensors
from service.engines.onnx_runtime import OnnxRuntimeEngine

CALLERS = 16
"""Callers at the same time; also the largest batch, so that one batch can serve them all."""

SECONDS = 1.0
"""Length of a measurement."""

REPETITIONS = 7
"""Measurements of which the median is shown."""

COMPONENT = "image_backbone"


class SleepingEngine:
    """Takes a fixed time a batch and a row, and holds no CPU meanwhile, like an accelerator."""

    description = "sleeping"
    concurrency = 1
    useful_batch = None

    def __init__(self, per_batch: float, per_row: float) -> None:
        """Takes seconds per batch and per row."""
        self._per_batch = per_batch
        self._per_row = per_row

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Sleeps, and returns a feature map per row."""
        rows = len(inputs["image"])
        if seconds := self._per_batch + self._per_row * rows:
            time.sleep(seconds)
        return {"features": np.zeros((rows, 8, 8, 8), dtype=np.float32)}

    def close(self) -> None:
        """Holds nothing."""


def synthetic_manifest() -> Manifest:
    """A manifest with an image backbone and nothing else."""
    image = TensorSpec(name="image", dtype="uint8", shape=("B", 256, 256, 3))
    features = TensorSpec(name="features", dtype="float32", shape=("B", 8, 8, 8))
    component = ComponentManifest(
        inputs=(image,), outputs=(features,), max_batch_size=CALLERS, sha256="0" * 64, bytes=1, parameters=0
    )
    system = SystemManifest.model_validate(
        {
            "components": {COMPONENT: COMPONENT},
            "backbone": "none",
            "backbone_channels": 8,
            "feature_size": 8,
            "similarity_size": 16,
            "model_width": 256,
            "pathways": 1,
            "modalities": {"image": "required", "text": "unused"},
            "parameters": 1,
        }
    )
    return Manifest(
        capeserve_version="0",
        created="1970-01-01T00:00:00Z",
        image_size=256,
        box_padding=1.25,
        max_keypoints=100,
        keypoint_buckets=(100,),
        max_shots=1,
        components={COMPONENT: component},
        systems={"none": system},
        source=SourceManifest(checkpoint="none", sha256="0" * 64, trained=False),
    )


def through_batcher(engine: Engine, manifest: Manifest, callers: int) -> float:
    """Rows per second that so many callers get, each asking again as soon as it is answered."""

    async def measure() -> float:
        batcher = Batcher(engine, manifest)
        inputs: Mapping[str, npt.NDArray[Any]] = {"image": np.zeros((256, 256, 3), dtype=np.uint8)}
        until = time.perf_counter() + SECONDS
        served = 0

        async def call() -> None:
            nonlocal served
            while time.perf_counter() < until:
                await batcher.submit(COMPONENT, inputs, ["features"], asyncio.get_running_loop().time() + 60)
                served += 1

        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        rate = served / (time.perf_counter() - started)
        await batcher.close()
        return rate

    return asyncio.run(measure())


def bare(engine: Engine, rows: int) -> float:
    """Rows per second of the engine alone, with batches of `rows` rows one after the other."""
    inputs = {"image": np.zeros((rows, 256, 256, 3), dtype=np.uint8)}
    started = time.perf_counter()
    runs = 0
    while time.perf_counter() < started + SECONDS:
        engine.run(COMPONENT, inputs, ["features"])
        runs += 1
    return runs * rows / (time.perf_counter() - started)


@click.command()
@click.option("--repository", type=click.Path(path_type=Path), help="An exported repository, to measure with.")
def main(repository: Path | None) -> None:
    """Measures and prints two tables."""
    console = Console()
    manifest = synthetic_manifest()
    at_once = SleepingEngine(0, 0)
    overhead = Table("Callers", "Overhead per row", title="With an engine that answers at once")
    for callers in (1, CALLERS):
        rate = median(through_batcher(at_once, manifest, callers) for _ in range(REPETITIONS))
        overhead.add_row(str(callers), f"{1e6 / rate:.0f} µs")
    console.print(overhead)

    engines: list[tuple[str, Engine, Manifest]] = [("2 ms + 1 ms a row", SleepingEngine(0.002, 0.001), manifest)]
    if repository is not None:
        exported = read_manifest(repository)
        engines.append((str(repository), OnnxRuntimeEngine(repository, exported), exported))
    throughput = Table(
        "Engine",
        "Alone, rows/s",
        f"{CALLERS} callers, rows/s",
        "Ratio",
        title=f"Batches of {CALLERS} alone against callers",
    )
    for name, engine, described in engines:
        # Taken in turns, so that a machine that slows down slows both.
        pairs = [(bare(engine, CALLERS), through_batcher(engine, described, CALLERS)) for _ in range(REPETITIONS)]
        ratio = median(served / alone for alone, served in pairs)
        alone, served = (median(column) for column in zip(*pairs, strict=True))
        throughput.add_row(name, f"{alone:.1f}", f"{served:.1f}", f"{ratio:.3f}")
    console.print(throughput)


if __name__ == "__main__":
    main()
