"""The training loop: optimiser steps, and at intervals a log row, a validation, a saved state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from torch.utils.data import DataLoader

from cape.checkpoints import save_checkpoint
from cape.configuration import BackboneConfiguration, SystemConfiguration, TextConfiguration
from cape.data.episodes import EpisodeBatch
from cape.evaluation.metrics import Scores
from cape.models.system import System
from cape.training.configuration import TrainingConfiguration
from cape.training.data import BatchNumbers, EpisodeBatches
from cape.training.log import TrainingLog
from cape.training.losses import Losses
from cape.training.model import TrainedModel
from cape.training.optimizer import make_optimizer
from cape.training.schedule import Schedule
from cape.training.state import TrainingState, TrainingStateError, save_state
from cape.training.validation import ValidationSet

BEST = "best"
LAST = "last"
"""Checkpoint folders of a run."""

SELECTED_BY = 0.2
"""The best checkpoint has the highest PCK at this threshold, averaged over the validation sets."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where a run stands, for whoever shows it.

    Attributes:
        step: optimiser steps taken.
        progress: share of the run that is over, 0–1.
        loss: mean of the weighted sum over the last row of the log.
        pairs_per_second: pairs of support and query over all devices, likewise; validation and saving not counted.
        scores: of a validation after this very step, by data set; empty where there was none.
    """

    step: int
    progress: float
    loss: float
    pairs_per_second: float
    scores: Mapping[str, Scores]


class TrainingLoop:
    """Trains a model.

    Args:
        accelerator: devices and processes.
        model: on the CPU; moved to the device here.
        batches: the data.
        validation: what is looked at on the way; empty for nothing.
        configuration: of the run.
        schedule: its length.
        output: folder for checkpoints, state and log; written by the main process.
        tokenizer: goes into checkpoints.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: TrainedModel,
        batches: EpisodeBatches,
        validation: Sequence[ValidationSet],
        configuration: TrainingConfiguration,
        schedule: Schedule,
        output: Path,
        tokenizer: Path | None = None,
    ) -> None:
        self._accelerator = accelerator
        self._plain = model
        self._optimizer = make_optimizer(model, configuration.optimizer)
        self._model, self._prepared = accelerator.prepare(model, self._optimizer)
        self._batches = batches
        self._validation = validation
        self._configuration = configuration
        self._schedule = schedule
        self._output = output
        self._tokenizer = tokenizer
        self._step = 0
        self._seconds = 0.0
        self._best = -1.0
        self._scores: dict[str, Scores] = {}
        self._scored_at = -1

    def resume(self, state: TrainingState) -> None:
        """Goes on from a state.

        Raises:
            TrainingStateError: it is that of another model.
        """
        own = self._changing_state()
        shapes = {key: value.shape for key, value in state.model.items()}
        if shapes != {key: value.shape for key, value in own.items()}:
            raise TrainingStateError(f"{self._output}: the saved state is that of another model")
        self._plain.load_state_dict(state.model, strict=False)
        self._optimizer.load_state_dict(state.optimizer)
        self._step, self._seconds, self._best = state.step, state.seconds, state.best

    def run(self, log: TrainingLog | None, report: Callable[[StepReport], None], stopped: Callable[[], bool]) -> int:
        """Trains to the end, or until `stopped` says so; either way the state is saved.

        Args:
            log: rows go there; None in processes that write nothing.
            report: is called after every row.
            stopped: is asked after every step.

        Returns:
            Optimiser steps taken in all.
        """
        every = self._configuration.logging.every_steps
        window = _Window()
        start = time.monotonic() - self._seconds
        saved = time.monotonic()
        batches = self._loader()
        latest = StepReport(self._step, self._progress(), math.nan, 0.0, {})
        while not self._schedule.finished(self._step, self._seconds):
            began = time.monotonic()
            window.add(*self._optimizer_step(batches))
            window.seconds += time.monotonic() - began
            self._step += 1
            if self._step % every == 0:
                latest = self._row(window, log)
                report(latest)
                window = _Window()
            if self._step % self._configuration.logging.validate_steps == 0 and self._validate(log):
                report(replace(latest, step=self._step, scores=self._scores))
            if time.monotonic() - saved >= self._configuration.logging.save_seconds:
                self._save()
                saved = time.monotonic()
            self._seconds, ending = self._agreed(time.monotonic() - start, stopped())
            if ending:
                break
        if self._schedule.finished(self._step, self._seconds):
            if window.count:
                latest = self._row(window, log)
            fresh = self._scored_at != self._step and self._validate(log)
            report(replace(latest, step=self._step, progress=1.0, scores=self._scores if fresh else {}))
        self._save()
        return self._step

    def _agreed(self, seconds: float, stopped: bool) -> tuple[float, bool]:
        """The main process's clock, and whether it is to stop: all processes must do the same."""
        if self._accelerator.num_processes == 1:
            return seconds, stopped
        mine = torch.tensor([seconds, float(stopped)], dtype=torch.float64, device=self._accelerator.device)
        agreed = broadcast(mine)
        return float(agreed[0]), bool(agreed[1] > 0)

    def _loader(self) -> Iterator[EpisodeBatch]:
        accelerator, configuration = self._accelerator, self._configuration
        world = accelerator.num_processes
        first = self._step * configuration.accumulation * world + accelerator.process_index
        loader = DataLoader(
            self._batches,
            sampler=BatchNumbers(first, world),
            batch_size=None,
            num_workers=configuration.workers,
            pin_memory=accelerator.device.type == "cuda",
        )
        return iter(loader)

    def _optimizer_step(self, batches: Iterator[EpisodeBatch]) -> tuple[Tensor, Losses, float]:
        """One step; returns the weighted sum, the losses (means over its passes) and the gradient's norm."""
        accelerator, configuration = self._accelerator, self._configuration
        # Dropout depends on the step and the process alone, so that a resumed run drops the same.
        entropy = np.random.SeedSequence((configuration.seed, self._step, accelerator.process_index))
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        factor = self._schedule.factor(self._step, self._seconds)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor
        self._model.train()
        totals, parts = [], []
        for index in range(configuration.accumulation):
            batch = next(batches).to(accelerator.device)
            last = index == configuration.accumulation - 1
            if last:
                total, losses = self._pass(batch)
            else:
                with accelerator.no_sync(self._model):
                    total, losses = self._pass(batch)
            totals.append(total)
            parts.append(losses)
        parameters = [p for p in self._plain.parameters() if p.requires_grad]
        norm = accelerator.clip_grad_norm_(parameters, configuration.optimizer.clip_norm or math.inf)
        self._prepared.step()
        self._prepared.zero_grad()
        means = Losses(*(torch.stack(values).mean() for values in zip(*parts, strict=True)))
        return torch.stack(totals).mean(), means, float(norm)

    def _pass(self, batch: EpisodeBatch) -> tuple[Tensor, Losses]:
        total, losses = self._model(batch)
        self._accelerator.backward(total / self._configuration.accumulation)
        return total.detach(), Losses(*(value.detach() for value in losses))

    def _row(self, window: _Window, log: TrainingLog | None) -> StepReport:
        """Writes a row of the log."""
        configuration = self._configuration
        pairs = window.count * configuration.batch_size * configuration.accumulation * self._accelerator.num_processes
        values = window.means() | {
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "pairs_per_second": pairs / window.seconds,
            "minutes": self._seconds / 60,
        }
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"step {self._step}: the loss is {values['loss']}")
        if log is not None:
            log.write("train", self._step, values)
        return StepReport(self._step, self._progress(), values["loss"], values["pairs_per_second"], {})

    def _progress(self) -> float:
        configuration = self._schedule.configuration
        shares = [self._step / self._schedule.steps] if self._schedule.steps else []
        if configuration.max_minutes is not None:
            shares.append(self._seconds / (60 * configuration.max_minutes))
        return min(1.0, max(shares))

    def _validate(self, log: TrainingLog | None) -> bool:
        """Scores the model in the main process, and keeps it where it is the best so far; False without a score."""
        if not self._validation or not self._accelerator.is_main_process:
            return False
        self._scored_at = self._step
        self._scores = {one.name: one.score(self._plain, self._accelerator.device) for one in self._validation}
        values: dict[str, float] = {}
        for name, scores in self._scores.items():
            values |= {f"{name} PCK@.2": scores.pck_at(0.2), f"{name} PCK@.05": scores.pck_at(0.05)}
        if log is not None:
            log.write("validation", self._step, values)
        score = sum(scores.pck_at(SELECTED_BY) for scores in self._scores.values()) / len(self._scores)
        if score > self._best:
            self._best = score
            self._save_checkpoint(BEST)
        return True

    def _save(self) -> None:
        if not self._accelerator.is_main_process:
            return
        self._save_checkpoint(LAST)
        state = TrainingState(
            step=self._step,
            seconds=self._seconds,
            best=self._best,
            model=self._changing_state(),
            optimizer=self._optimizer.state_dict(),
            configuration=self._configuration.model_dump_json(),
        )
        save_state(state, self._output)

    def _save_checkpoint(self, name: str) -> None:
        system = self._plain.system
        system.configuration = _as_trained(system)
        standardisation = self._plain.standardisation
        with nullcontext() if standardisation is None else standardisation.folded(system):
            save_checkpoint(system, self._output / name, self._tokenizer)

    def _changing_state(self) -> dict[str, Tensor]:
        """Weights and buffers, but for those of frozen towers."""
        frozen = tuple(
            f"system.{name}."
            for name in ("image_backbone", "text_encoder")
            if (tower := getattr(self._plain.system, name)) is not None
            and not any(parameter.requires_grad for parameter in tower.parameters())
        )
        return {key: value for key, value in self._plain.state_dict().items() if not key.startswith(frozen or ("\0",))}


def _as_trained(system: System) -> SystemConfiguration:
    """What a checkpoint says of its model: a tower that was trained is no longer that of a package."""
    configuration, changes = system.configuration, dict[str, object](trained=True)
    for field, tower in (("backbone", system.image_backbone), ("text", system.text_encoder)):
        part: BackboneConfiguration | TextConfiguration | None = getattr(configuration, field)
        if part is not None and tower is not None and any(p.requires_grad for p in tower.parameters()):
            changes[field] = part.model_copy(update={"weights": "stored"})
    return configuration.model_copy(update=changes)


class _Window:
    """Sums of what a row of the log is the mean of."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self._sums: dict[str, float] = {}

    def add(self, total: Tensor, losses: Losses, norm: float) -> None:
        self.count += 1
        values = {"loss": float(total), **{k: float(v) for k, v in losses._asdict().items()}, "gradient_norm": norm}
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value

    def means(self) -> dict[str, float]:
        return {key: value / self.count for key, value in self._sums.items()}
