"""Table 6 at small scale: every modality and fusion, trained alike and compared on unseen categories.

Runs differ only in the system and the seed, which determines initial weights, episodes and augmentation; runs of equal
seeds see the same episodes. Each finished run is recorded, so an interrupted ablation resumes, and several processes
may share the work.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cape.checkpoints import load_checkpoint
from cape.configuration import IMAGE_SYSTEMS, TEXT_SYSTEMS, SystemConfiguration, SystemName
from cape.data.sources import open_dataset
from cape.evaluation.checkpoint import CheckpointEstimator
from cape.evaluation.configuration import EvaluationConfiguration
from cape.evaluation.evaluation import evaluate
from cape.training.configuration import TrainingConfiguration
from cape.training.loop import LAST, StepReport
from cape.training.run import Reporting, train

SETTINGS: tuple[SystemName, ...] = ("visual_only", "textual_only", "flf", "dlf", "capex", "graphcape")
"""The four settings of Table 6, and the two models that the paper compares with."""

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25)

PAPER = {"visual_only": 89.28, "textual_only": 90.58, "flf": 90.96, "dlf": 90.93}
"""PCK@.2 in Table 6, averaged over the five splits of MP-100, in percent."""

Progress = Callable[[str, int, int], None]
"""Called with the current activity, steps done and total steps."""


@dataclass(frozen=True, slots=True)
class Run:
    """Result of one training run.

    Attributes:
        system, seed: which one.
        steps: optimiser steps.
        minutes: of training, wall clock.
        pairs: pairs that it was evaluated on.
        pck: threshold → PCK on unseen categories, 0–1.
        loss: mean of the last lines of its log.
    """

    system: SystemName
    seed: int
    steps: int
    minutes: float
    pairs: int
    pck: dict[str, float]
    loss: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A system over its seeds.

    Attributes:
        system: which one.
        runs: how many.
        mean, spread: threshold → mean and sample standard deviation of PCK, 0–1; the spread of one run is 0.
    """

    system: SystemName
    runs: int
    mean: dict[str, float]
    spread: dict[str, float]


def for_system(base: TrainingConfiguration, system: SystemName, seed: int) -> TrainingConfiguration:
    """The base configuration with another system and seed; encoders, head, data, losses and budget stay.

    Args:
        base: of an FLF.
        system: which one.
        seed: of all random numbers.
    """
    model = base.model.model_dump()
    # Only the blocks that need both modalities are dropped; the rest of the model stays the same.
    model |= {"system": system, "modality_dropout": False}
    if system not in TEXT_SYSTEMS:
        model["text"] = None
    document = base.model_dump()
    document |= {"model": SystemConfiguration.model_validate(model), "seed": seed, "modality_dropout": {}}
    if system not in IMAGE_SYSTEMS | TEXT_SYSTEMS:
        raise ValueError(f"{system}: reads neither images nor texts")
    return TrainingConfiguration.model_validate(document)


def measure_run(
    base: TrainingConfiguration,
    system: SystemName,
    seed: int,
    evaluation: dict[str, Any],
    folder: Path,
    progress: Progress,
) -> Run:
    """Trains and evaluates one setting, or reads an earlier record.

    Args:
        base: see `for_system`.
        system, seed: which run.
        evaluation: fields of an `EvaluationConfiguration`: the unseen categories.
        folder: of the runs, one subfolder each.
        progress: called often.

    Raises:
        DatasetError, CheckpointError, PretrainedError: as `train`.
        ValueError: the folder holds a run of another configuration.
    """
    configuration = for_system(base, system, seed)
    output = folder / f"{system}-{seed}"
    record = output / "ablation.json"
    about = {"configuration": configuration.model_dump(mode="json"), "evaluation": evaluation}
    if record.is_file():
        document = json.loads(record.read_text(encoding="utf-8"))
        if {name: document[name] for name in about} != json.loads(json.dumps(about)):
            raise ValueError(f"{output}: a run of another configuration; choose another folder")
        return Run(**document["run"])
    losses: list[float] = []
    minutes = 0.0

    def trained(report: StepReport) -> None:
        losses.append(report.loss)
        progress(f"{system}, seed {seed}: training", round(1000 * report.progress), 1000)

    reporting = Reporting(lambda _: None, progress, trained, lambda: False)
    steps = train(configuration, output, reporting, resume=(output / "state.pt").exists())
    with contextlib.suppress(OSError, ValueError, IndexError):
        minutes = float((output / "train.csv").read_text().splitlines()[-1].rpartition(",")[2])
    checkpoint = output / LAST
    asked = EvaluationConfiguration.model_validate({**evaluation, "checkpoint": checkpoint})
    scored = evaluate(
        open_dataset(asked.data),
        CheckpointEstimator(load_checkpoint(checkpoint)),
        asked,
        lambda _, done, total: progress(f"{system}, seed {seed}: scoring", done, total),
    )
    run = Run(
        system=system,
        seed=seed,
        steps=steps,
        minutes=minutes,
        pairs=len(scored.run.results),
        pck={f"{threshold:g}": scored.overall.pck_at(threshold) for threshold in THRESHOLDS},
        loss=statistics.fmean(losses[-5:]) if losses else float("nan"),
    )
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({**about, "run": asdict(run)}, indent=2) + "\n", encoding="utf-8")
    partial.replace(record)
    return run


def recorded_runs(folder: Path) -> list[Run]:
    """Every finished run, ordered by `SETTINGS` and seed."""
    runs = [Run(**json.loads(path.read_text(encoding="utf-8"))["run"]) for path in folder.glob("*/ablation.json")]
    return sorted(runs, key=lambda run: (SETTINGS.index(run.system), run.seed))


def summarise(runs: Iterable[Run]) -> list[Summary]:
    """Mean and spread of every system over its seeds."""
    by_system: dict[SystemName, list[Run]] = {}
    for run in runs:
        by_system.setdefault(run.system, []).append(run)
    return [_summary(system, by_system[system]) for system in SETTINGS if system in by_system]


def _summary(system: SystemName, runs: Sequence[Run]) -> Summary:
    values = {name: [run.pck[name] for run in runs] for name in runs[0].pck}
    return Summary(
        system=system,
        runs=len(runs),
        mean={name: statistics.fmean(found) for name, found in values.items()},
        spread={name: statistics.stdev(found) if len(found) > 1 else 0.0 for name, found in values.items()},
    )
