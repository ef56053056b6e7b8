"""The accuracy cost of serving: `capeserve bench accuracy`.

The same test pairs go to the checkpoint in PyTorch float32, to exported repositories in every engine and precision of
this machine, and to a running service over gRPC. PCK shows the average cost, keypoint distances whether anything moved
at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness.engine_choices import EngineChoice, engine_choices
from benchmarks.harness.exported import ExportedEstimator
from benchmarks.harness.large_images import EnlargedDataset, JpegEstimator
from benchmarks.harness.serving import Serve
from cape.checkpoints import Checkpoint
from cape.data.dataset import KeypointDataset
from cape.data.pairs import TestPlan
from cape.evaluation.checkpoint import CheckpointEstimator
from cape.evaluation.estimator import Estimator
from cape.evaluation.metrics import Scores, mean_scores
from cape.evaluation.run import EvaluationRun, run_pairs
from cape.evaluation.service import ServiceEstimator

Progress = Callable[[str], None]

Open = Callable[[], contextlib.AbstractContextManager[Estimator]]
"""Opens an estimator for the duration of a block."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Distance of keypoints from the reference's, as fractions of the longer side of the query's box.

    Attributes:
        median, p99, largest: over all keypoints that both located.
    """

    median: float
    p99: float
    largest: float


@dataclass(frozen=True, slots=True)
class Way:
    """One estimator that is compared.

    Attributes:
        name: shown in tables.
        described: the estimator's own name, with engine, precision and version.
        scores: over all pairs.
        moved: distance from the reference; None for the reference.
    """

    name: str
    described: str
    scores: Scores
    moved: Moved | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several estimators on the same pairs.

    Attributes:
        data: name of the data set.
        ways: the reference first.
    """

    data: str
    ways: tuple[Way, ...]

    def lost(self, way: Way, threshold: float) -> float:
        """PCK lost against the reference, in percentage points; negative for a gain."""
        return 100 * (self.ways[0].scores.pck_at(threshold) - way.scores.pck_at(threshold))


def served_accuracy(
    dataset: KeypointDataset,
    plan: TestPlan,
    checkpoint: Checkpoint,
    repositories: Sequence[Path],
    serve: Serve,
    settings: Mapping[str, object],
    progress: Progress = lambda text: None,
) -> Comparison:
    """Compares PyTorch with every engine in this process and with a service.

    Args:
        dataset: where the plan's objects are.
        plan: the pairs.
        checkpoint: the reference.
        repositories: exported from it.
        serve: starts a server for each.
        settings: of the servers.
        progress: called with what is being measured.

    Raises:
        EstimationError, DatasetError, MissingModalityError: as `run_pairs`.
    """
    ways: dict[str, Open] = {"PyTorch float32": lambda: contextlib.closing(CheckpointEstimator(checkpoint))}
    for repository in repositories:
        for choice in engine_choices():
            ways[f"{repository.name}, {choice}"] = _in_process(repository, choice)
        ways[f"{repository.name}, over gRPC"] = _served(repository, serve, settings)
    return compare(dataset, plan, ways, progress)


def reduced_accuracy(
    dataset: KeypointDataset,
    plan: TestPlan,
    repository: Path,
    megapixels: float,
    progress: Progress = lambda text: None,
) -> Comparison:
    """Compares large JPEGs decoded in full with the same decoded at the scale that their crops need.

    Args:
        dataset: where the plan's objects are; they are enlarged.
        plan: the pairs.
        repository: answers, in ONNX Runtime.
        megapixels: of the JPEGs.
        progress: called with what is being measured.
    """
    choice = EngineChoice("onnxruntime")

    def way(reduced: bool) -> Open:
        return lambda: contextlib.closing(JpegEstimator(repository, choice, reduced=reduced))

    large = EnlargedDataset(dataset, megapixels)
    ways = {"decoded in full": way(False), "decoded at the scale that the crop needs": way(True)}
    return compare(large, plan, ways, progress)


def compare(
    dataset: KeypointDataset, plan: TestPlan, ways: Mapping[str, Open], progress: Progress = lambda text: None
) -> Comparison:
    """Runs every estimator on the same pairs.

    Args:
        dataset: where the plan's objects are.
        plan: the pairs.
        ways: by name; the first is the reference.
        progress: called with what is being measured.
    """
    measured: list[Way] = []
    reference: EvaluationRun | None = None
    for name, way in ways.items():
        progress(f"{dataset.name}: {name}")
        with way() as estimator:
            run, described = run_pairs(dataset, plan, estimator), estimator.name
        scores = mean_scores([result.scores for result in run.results])
        measured.append(Way(name, described, scores, moved(reference, run) if reference is not None else None))
        reference = reference or run
    return Comparison(dataset.name, tuple(measured))


def moved(reference: EvaluationRun, other: EvaluationRun) -> Moved:
    """Distance between the keypoints of two runs on the same pairs."""
    distances = []
    for known, found in zip(reference.results, other.results, strict=True):
        both = known.pose.located & found.pose.located
        offsets = np.asarray(found.pose.keypoints - known.pose.keypoints, np.float64)[both]
        distances.append(np.hypot(offsets[:, 0], offsets[:, 1]) / known.length)
    median, p99, largest = np.quantile(np.concatenate(distances), (0.5, 0.99, 1.0)).tolist()
    return Moved(median, p99, largest)


def _in_process(repository: Path, choice: EngineChoice) -> Open:
    return lambda: contextlib.closing(ExportedEstimator(repository, choice=choice))


def _served(repository: Path, serve: Serve, settings: Mapping[str, object]) -> Open:
    @contextlib.contextmanager
    def opened() -> Iterator[Estimator]:
        with serve(repository, settings) as served, contextlib.closing(ServiceEstimator(served.target)) as estimator:
            yield estimator

    return opened
