"""A training run of a CapeLLM from its configuration: model, conversations, validation, loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from cape.data.dataset import DatasetError, KeypointDataset
from cape.data.sources import open_dataset
from cape.evaluation.metrics import Scores
from cape.models.capellm.checkpoint import save_capellm
from cape.models.capellm.model import CapeLlm
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.training.capellm.batches import ConversationBatch
from cape.training.capellm.beginnings import begin
from cape.training.capellm.configuration import (
    CapeLlmSource,
    CapeLlmTrainingConfiguration,
    CapeLlmValidationSource,
)
from cape.training.capellm.conversations import ConversationWriter
from cape.training.capellm.data import ConversationBatches, ConversationSource
from cape.training.capellm.losses import CapeLlmLosses, NearNumbers, conversation_losses
from cape.training.capellm.patches import cached_patches, patch_encoder
from cape.training.capellm.validation import CapeLlmValidation
from cape.training.data import BatchNumbers, OnlineShots, Shots
from cape.training.log import TrainingLog
from cape.training.loop import BEST, LAST, SELECTED_BY, StepReport
from cape.training.parts import DatasetPart
from cape.training.precision import autocast_type
from cape.training.run import Reporting
from cape.training.schedule import Schedule
from cape.training.state import TrainingState, TrainingStateError, load_state, save_state

STANDARDISED_BY = 128
"""Images whose patches say what the mean and scale of a convolutional map's channels are."""

FREE_TO_CHANGE = frozenset({"schedule", "logging", "workers", "cache_folder", "validation"})
"""What a run may be resumed with: nothing that its numbers depend on."""


def train_capellm(
    configuration: CapeLlmTrainingConfiguration, output: Path, reporting: Reporting, *, resume: bool = False
) -> int:
    """Trains a model; arguments, answer and errors as for `cape.training.run.train`.

    One process and one device: the GPU where there is one.
    """
    state = load_state(output) if resume else None
    if state is None and (output / "state.pt").exists():
        raise TrainingStateError(f"{output}: holds a run already; resume it, or choose another folder")
    if state is not None:
        before = CapeLlmTrainingConfiguration.model_validate_json(state.configuration)
        for name in CapeLlmTrainingConfiguration.model_fields.keys() - FREE_TO_CHANGE:
            if getattr(before, name) != getattr(configuration, name):
                raise TrainingStateError(f"{output}: {name} is not what the run began with")
    datasets = [(source, found) for source in configuration.sources if (found := _open(source, reporting)) is not None]
    if not datasets:
        raise DatasetError("sources: none is left")
    model, tokenizer = begin(configuration, [each for _, dataset in datasets for each in dataset.categories])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predictor = CapeLlmPredictor(model, tokenizer, device)
    sources = []
    for source, dataset in datasets:
        part = DatasetPart(dataset, source.hold_out, "first") if source.hold_out else dataset
        sources.append(ConversationSource(part, _shots(model, part, source, configuration, reporting)))
    batches = ConversationBatches(
        sources,
        tokenizer,
        ConversationWriter(configuration.model.instruction, configuration.task, configuration.augmentation.paraphrase),
        image_tokens=configuration.model.vision.tokens,
        rounds=configuration.rounds,
        independent=configuration.independent_rounds,
        batch_size=configuration.batch_size,
        seed=configuration.seed,
    )
    if configuration.beginning.checkpoint is None and configuration.model.vision.kind != "dinov2":
        _standardise(model, batches)
    encoder = patch_encoder(model) if configuration.vision == "frozen" else None
    validation = []
    if configuration.task == "keypoints":
        for looked_at in configuration.validation:
            if (opened := _open(looked_at, reporting)) is not None:
                held = DatasetPart(opened, looked_at.held_out, "last") if looked_at.held_out else opened
                size, padding = configuration.model.vision.image_size, configuration.model.box_padding
                validation.append(CapeLlmValidation(held, looked_at, size=size, padding=padding, encoder=encoder))
    loop = _Loop(configuration, predictor, batches, validation, output)
    if state is not None:
        loop.resume(state)
        reporting.note(f"Resumed after step {state.step}, {state.seconds / 60:.1f} minutes")
    with TrainingLog(output, state.step if state else 0, tensorboard=configuration.logging.tensorboard) as log:
        return loop.run(log, reporting)


def _open(source: CapeLlmSource | CapeLlmValidationSource, reporting: Reporting) -> KeypointDataset | None:
    try:
        return open_dataset(source.data)
    except DatasetError as error:
        if not source.optional:
            raise
        reporting.note(f"Left out: {error}")
        return None


def _shots(
    model: CapeLlm,
    dataset: KeypointDataset,
    source: CapeLlmSource,
    configuration: CapeLlmTrainingConfiguration,
    reporting: Reporting,
) -> Shots:
    if configuration.features == "cached":
        return cached_patches(model, dataset, source, configuration, reporting.preparing)
    size, padding = configuration.model.vision.image_size, configuration.model.box_padding
    return OnlineShots(dataset, configuration.augmentation.jitter, size=size, padding=padding)


def _standardise(model: CapeLlm, batches: ConversationBatches) -> None:
    sample: list[torch.Tensor] = []
    while sum(map(len, sample)) < STANDARDISED_BY:
        images = batches[len(sample)].image.to(model.device)
        with torch.inference_mode():
            sample.append(model.vision.eval()(images) if images.dtype == torch.uint8 else images)
    model.projection.standardise(torch.cat(sample).clone())


@dataclass(slots=True)
class _Means:
    """Sums of what a row of the log is the mean of."""

    steps: int = 0
    seconds: float = 0.0
    answer: float = 0.0
    distance: float = 0.0
    norm: float = 0.0


class _Loop:
    def __init__(
        self,
        configuration: CapeLlmTrainingConfiguration,
        predictor: CapeLlmPredictor,
        batches: ConversationBatches,
        validation: list[CapeLlmValidation],
        output: Path,
    ) -> None:
        self._configuration = configuration
        self._predictor = predictor
        self._model = predictor.model
        self._batches = batches
        self._validation = validation
        self._output = output
        self._near: NearNumbers | None = None
        if configuration.near_numbers and predictor.grammar is not None:
            vocabulary = self._model.language.get_input_embeddings().weight.shape[0]
            self._near = NearNumbers(predictor.grammar, configuration.near_numbers, vocabulary)
        wanted = configuration.optimizer
        kind = torch.optim.AdamW if wanted.kind == "adamw" else torch.optim.Adam
        tower = {id(parameter) for parameter in self._model.vision.parameters()}
        trained = [p for p in self._model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if (id(p) in tower) == own], "lr": rate, "base_rate": rate}
            for own, rate in ((False, wanted.learning_rate), (True, wanted.learning_rate * wanted.tower_factor))
        ]
        self._optimizer = kind(
            [group for group in groups if group["params"]], betas=wanted.betas, weight_decay=wanted.weight_decay
        )
        schedule, steps = configuration.schedule, configuration.schedule.steps
        if schedule.epochs is not None:
            steps = max(1, schedule.epochs * batches.epoch // (configuration.batch_size * configuration.accumulation))
        self._schedule = Schedule(schedule, steps)
        self._autocast = autocast_type(configuration.precision, self._model.device)
        self._step = 0
        self._seconds = 0.0
        self._best = -1.0

    def resume(self, state: TrainingState) -> None:
        self._model.load_state_dict(state.model, strict=False)
        self._optimizer.load_state_dict(state.optimizer)
        self._step, self._seconds, self._best = state.step, state.seconds, state.best

    def run(self, log: TrainingLog, reporting: Reporting) -> int:
        """Trains to the end, or until it is stopped; either way the state is saved."""
        logging = self._configuration.logging
        start, saved = time.monotonic() - self._seconds, time.monotonic()
        batches, means, loss, speed = self._loader(), _Means(), math.nan, 0.0
        while not self._schedule.finished(self._step, self._seconds):
            self._optimizer_step(batches, means)
            self._step += 1
            self._seconds = time.monotonic() - start
            if self._step % logging.every_steps == 0:
                loss, speed = self._row(log, means)
                reporting.trained(StepReport(self._step, self._progress(), loss, speed, {}))
                means = _Means()
            finished = self._schedule.finished(self._step, self._seconds)
            if self._validation and (finished or self._step % logging.validate_steps == 0):
                reporting.trained(StepReport(self._step, self._progress(), loss, speed, self._validate(log)))
            if time.monotonic() - saved >= logging.save_seconds:
                self._save()
                saved = time.monotonic()
            if reporting.stopped():
                break
        self._save()
        return self._step

    def _loader(self) -> Iterator[ConversationBatch]:
        first = self._step * self._configuration.accumulation
        workers = self._configuration.workers
        return iter(DataLoader(self._batches, sampler=BatchNumbers(first), batch_size=None, num_workers=workers))

    def _optimizer_step(self, batches: Iterator[ConversationBatch], means: _Means) -> None:
        configuration, began = self._configuration, time.monotonic()
        # Dropout depends on the step alone, so that a resumed run drops the same.
        torch.manual_seed(int(np.random.SeedSequence((configuration.seed, self._step)).generate_state(1)[0]))
        factor = self._schedule.factor(self._step, self._seconds)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor
        self._model.train()
        if configuration.vision == "frozen":
            self._model.vision.eval()
        for _ in range(configuration.accumulation):
            losses = self._pass(next(batches).to(self._model.device))
            means.answer += float(losses.answer.detach()) / configuration.accumulation
            means.distance += float(losses.distance.detach()) / configuration.accumulation
        trained = [p for p in self._model.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(trained, configuration.optimizer.clip_norm or math.inf)
        self._optimizer.step()
        self._optimizer.zero_grad()
        means.norm += float(norm)
        means.steps += 1
        means.seconds += time.monotonic() - began

    def _pass(self, batch: ConversationBatch) -> CapeLlmLosses:
        device = self._model.device.type
        with torch.autocast(device, self._autocast or torch.bfloat16, enabled=self._autocast is not None):
            losses = conversation_losses(self._model, batch, self._near)
        ((losses.answer + losses.distance) / self._configuration.accumulation).backward()
        return losses

    def _row(self, log: TrainingLog, means: _Means) -> tuple[float, float]:
        configuration, steps = self._configuration, means.steps
        keypoints = steps * configuration.batch_size * configuration.accumulation * configuration.rounds
        loss, speed = (means.answer + means.distance) / steps, keypoints / means.seconds
        if not math.isfinite(loss):
            raise FloatingPointError(f"step {self._step}: the loss is {loss}")
        values = {"loss": loss, "answer": means.answer / steps, "distance": means.distance / steps}
        values |= {
            "gradient_norm": means.norm / steps,
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "keypoints_per_second": speed,
            "minutes": self._seconds / 60,
        }
        log.write("train", self._step, values)
        return loss, speed

    def _progress(self) -> float:
        shares = [self._step / self._schedule.steps] if self._schedule.steps else []
        if (minutes := self._schedule.configuration.max_minutes) is not None:
            shares.append(self._seconds / (60 * minutes))
        return min(1.0, max(shares))

    def _validate(self, log: TrainingLog) -> dict[str, Scores]:
        found = {one.name: one.score(self._predictor) for one in self._validation}
        values: dict[str, float] = {}
        for name, scores in found.items():
            values |= {f"{name} PCK@.2": scores.pck_at(0.2), f"{name} PCK@.05": scores.pck_at(0.05)}
        log.write("validation", self._step, values)
        score = sum(scores.pck_at(SELECTED_BY) for scores in found.values()) / len(found)
        if score > self._best:
            self._best = score
            self._save_checkpoint(BEST)
        return found

    def _save(self) -> None:
        self._save_checkpoint(LAST)
        trained = {name for name, parameter in self._model.named_parameters() if parameter.requires_grad}
        trained |= {f"projection.{name}" for name, _ in self._model.projection.named_buffers()}
        state = self._model.state_dict()
        save_state(
            TrainingState(
                step=self._step,
                seconds=self._seconds,
                best=self._best,
                model={key: value for key, value in state.items() if key in trained},
                optimizer=self._optimizer.state_dict(),
                configuration=self._configuration.model_dump_json(),
            ),
            self._output,
        )

    def _save_checkpoint(self, name: str) -> None:
        self._model.configuration = self._model.configuration.model_copy(update={"trained": True})
        save_capellm(self._model, self._output / name, self._predictor.tokenizer.tokenizer)
