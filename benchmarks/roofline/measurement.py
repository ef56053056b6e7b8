"""Compares the image backbone with the machine's peak: `capeserve bench roofline`.

The bound is the time of its matrix products at the speed of large products in the same engine and precision. The rest
is normalisation, softmax, window partitioning and products too small to be fast. All runs are interleaved, so that a
busy machine affects all alike.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness.engine_choices import EngineChoice, engine_choices
from benchmarks.harness.matrix_flops import matrix_multiply_adds
from benchmarks.roofline import gemm
from cape.manifest import MODEL_FILE, Manifest, read_manifest
from service.engines.choice import load_engine

WARM_UP = 2

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Roofline:
    """The backbone of one repository at one batch size, in one engine.

    Attributes:
        repository: its name.
        backbone: the backbone's.
        engine: engine and precision of its float32 products.
        stored: precision of the graph.
        batch: images of a run.
        multiply_adds: of a run, products of matrices alone.
        seconds: of a run, median.
        peak: multiply-adds a second of the fastest large product, medians.
    """

    repository: str
    backbone: str
    engine: str
    stored: str
    batch: int
    multiply_adds: int
    seconds: float
    peak: float

    @property
    def ideal_seconds(self) -> float:
        """Time of the run's products at the peak."""
        return self.multiply_adds / self.peak

    @property
    def ratio(self) -> float:
        """Time of a run ÷ time of its products at the peak; 1 is the limit."""
        return self.seconds / self.ideal_seconds


def measure_rooflines(
    repositories: Sequence[Path],
    *,
    batches: Sequence[int] = (1, 4),
    runs: int = 20,
    threads: int | None = None,
    progress: Progress = lambda text: None,
) -> list[Roofline]:
    """Measures every backbone in every engine and precision of this machine.

    Args:
        repositories: exported.
        batches: images of a run; sizes above the backbone's largest are left out.
        runs: of each kind, in turns with the large products of the same engine.
        threads: CPU threads of a run; None: one per CPU.
        progress: told what is being measured.

    Raises:
        EngineError: a graph cannot be loaded or run.
        UncountableError: see `matrix_multiply_adds`.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        graphs = gemm.write_graphs(Path(folder), gemm.SIDES)
        for choice in engine_choices():
            for repository in repositories:
                progress(f"{repository.name}: {choice}")
                found += _measure(repository, choice, Path(folder), graphs, batches, runs, threads)
    return found


def _measure(
    repository: Path,
    choice: EngineChoice,
    folder: Path,
    graphs: Manifest,
    batches: Sequence[int],
    runs: int,
    threads: int | None,
) -> list[Roofline]:
    manifest = read_manifest(repository)
    backbones = {
        system.components["image_backbone"]: system.backbone
        for system in manifest.systems.values()
        if "image_backbone" in system.components
    }
    # Its other components would take memory for nothing.
    own = manifest.model_copy(update={"components": {name: manifest.components[name] for name in backbones}})
    generator = np.random.default_rng(0)
    kinds: dict[tuple[str, int], Callable[[], object]] = {}
    with (
        contextlib.closing(gemm.gemm_engine(folder, graphs, choice, threads)) as multiplier,
        contextlib.closing(
            load_engine(choice.engine, repository, own, threads=threads, precision=choice.precision)
        ) as engine,
    ):
        for side in gemm.SIDES:
            matrix = {"x": generator.standard_normal((side, side), np.float32)}
            kinds["", side] = functools.partial(multiplier.run, gemm.component(side), matrix, ["y"])
        for name in backbones:
            for batch in batches:
                if batch <= manifest.components[name].max_batch_size:
                    shape = (batch, manifest.image_size, manifest.image_size, 3)
                    image = {"image": generator.integers(0, 256, shape, np.uint8)}
                    kinds[name, batch] = functools.partial(engine.run, name, image, ["features"])
        seconds = _in_turns(kinds, runs)
    peak = max(gemm.multiply_adds(side) / seconds["", side] for side in gemm.SIDES)
    return [
        Roofline(
            repository=repository.name,
            backbone=backbones[name],
            engine=str(choice),
            stored=manifest.components[name].precision,
            batch=batch,
            multiply_adds=matrix_multiply_adds(repository / name / MODEL_FILE, {"B": batch}),
            seconds=seconds[name, batch],
            peak=peak,
        )
        for name, batch in kinds
        if name
    ]


def _in_turns(kinds: dict[tuple[str, int], Callable[[], object]], runs: int) -> dict[tuple[str, int], float]:
    """Median seconds of each kind, interleaved."""
    measured: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    for turn in range(-WARM_UP, runs):
        for kind, run in kinds.items():
            started = time.perf_counter()
            run()
            if turn >= 0:
                measured[kind].append(time.perf_counter() - started)
    return {kind: float(np.median(times)) for kind, times in measured.items()}
