"""A training run from its configuration: model, data, validation, loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from tokenizers import Tokenizer

from cape.checkpoints import untrained
from cape.data.dataset import Category, DatasetError, KeypointDataset
from cape.data.image_cache import ImageCache
from cape.data.sources import open_dataset
from cape.models.system import System
from cape.training.beginnings import begin
from cape.training.configuration import SourceConfiguration, TrainingConfiguration, ValidationSource
from cape.training.data import EpisodeBatches, OnlineShots, Shots, TrainingSource
from cape.training.encoders import BackboneEncoders
from cape.training.features import FeatureRecipe, StepProgress, backbone_digest, build_feature_cache
from cape.training.log import TrainingLog
from cape.training.loop import StepReport, TrainingLoop
from cape.training.model import TrainedModel
from cape.training.parts import DatasetPart
from cape.training.precision import autocast_type
from cape.training.schedule import Schedule
from cape.training.standardisation import Standardisation
from cape.training.state import TrainingStateError, load_state
from cape.training.texts import TextBank, text_tokenizer
from cape.training.validation import ValidationSet

STANDARDISED_BY = 128
"""Queries whose features say what their mean and scale are."""

ATTENTION_MULTIPLE = 16
"""Tokens are padded to a multiple of this on GPUs: fused attention copies its mask for every head otherwise."""

LONGEST_WAIT = timedelta(hours=12)
"""Of processes for the one that computes features or validates."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """Who is told what during a run; all of it may be called often.

    Attributes:
        note: a sentence about the run.
        preparing: what is being prepared, steps done and steps in all.
        trained: after every row of the log.
        stopped: asked after every step; True ends the run early, its state saved.
    """

    note: Callable[[str], None]
    preparing: StepProgress
    trained: Callable[[StepReport], None]
    stopped: Callable[[], bool]


def train(configuration: TrainingConfiguration, output: Path, reporting: Reporting, *, resume: bool = False) -> int:
    """Trains a model.

    Args:
        configuration: of the run.
        output: folder for `best`, `last`, the state and the log.
        reporting: who is told what.
        resume: go on from the state in `output`.

    Returns:
        Optimiser steps taken in all.

    Raises:
        DatasetError: data are missing or make no episode.
        CheckpointError, PretrainedError: weights to begin with are missing or do not fit.
        TrainingStateError: there is nothing to resume, or a run that `resume` was not said of.
        FloatingPointError: the loss is no number any more.
    """
    state = load_state(output) if resume else None
    if state is None and (output / "state.pt").exists():
        raise TrainingStateError(f"{output}: holds a run already; resume it, or choose another folder")
    if state is not None:
        _check_unchanged(TrainingConfiguration.model_validate_json(state.configuration), configuration, output)
    accelerator = _accelerator()
    main = accelerator.is_main_process
    if not main:
        reporting = Reporting(lambda _: None, lambda *_: None, lambda _: None, reporting.stopped)
    system = untrained(configuration.model, configuration.seed)
    tokenizer_file = begin(system, configuration.towers, configuration.seed, configuration.initialisation)
    assembly = _Assembly(configuration, system, tokenizer_file, accelerator, reporting)
    # One process writes the cache; the others find it.
    with accelerator.main_process_first() if configuration.features == "cached" else nullcontext():
        sources = assembly.sources()
    batches = EpisodeBatches(
        sources,
        assembly.texts([category for source in sources for category in source.dataset.categories]),
        batch_size=configuration.batch_size,
        shots=configuration.shots,
        dropout=configuration.modality_dropout,
        paraphrase=configuration.augmentation.paraphrase,
        anonymous=configuration.augmentation.anonymous,
        seed=configuration.seed,
        group=configuration.group,
        rounds=configuration.rounds,
        multiple=ATTENTION_MULTIPLE if accelerator.device.type == "cuda" else 1,
    )
    validation = assembly.validation() if main else []
    towers = configuration.towers
    standardisation = assembly.standardisation(batches) if assembly.caches_features else None
    model = TrainedModel(
        system.cpu(),
        configuration.losses,
        train_image=towers.train_image,
        train_text=towers.train_text,
        frozen_blocks=towers.frozen_blocks,
        support_gradient=towers.support_gradient,
        autocast=autocast_type(configuration.precision, accelerator.device),
        standardisation=standardisation,
        augmentation=configuration.augmentation,
    )
    loop = TrainingLoop(
        accelerator,
        model,
        batches,
        validation,
        configuration,
        Schedule(configuration.schedule, _steps(configuration, sources, accelerator.num_processes)),
        output,
        # A packaged tower brings its own tokenizer wherever the checkpoint is read.
        None if _packaged_text(configuration) else tokenizer_file,
    )
    if state is not None:
        loop.resume(state)
        reporting.note(f"Resumed after step {state.step}, {state.seconds / 60:.1f} minutes")
    if not main:
        return loop.run(None, reporting.trained, reporting.stopped)
    with TrainingLog(output, state.step if state else 0, tensorboard=configuration.logging.tensorboard) as log:
        return loop.run(log, reporting.trained, reporting.stopped)


def _accelerator() -> Accelerator:
    """The devices and processes that torchrun or accelerate made; on CPUs they have to be asked for."""
    patience = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    return Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[patience])


def _packaged_text(configuration: TrainingConfiguration) -> bool:
    return configuration.model.text is None or configuration.model.text.weights.startswith("package:")


def _check_unchanged(before: TrainingConfiguration, now: TrainingConfiguration, output: Path) -> None:
    """What a run may be resumed with: another end, other intervals; nothing that its numbers depend on."""
    free = {"schedule", "logging", "workers", "cache_folder", "validation"}
    for name in TrainingConfiguration.model_fields.keys() - free:
        if getattr(before, name) != getattr(now, name):
            raise TrainingStateError(f"{output}: {name} is not what the run began with")


def _steps(configuration: TrainingConfiguration, sources: list[TrainingSource], processes: int) -> int | None:
    """Optimiser steps of the run; None where only time ends it."""
    if configuration.schedule.epochs is None:
        return configuration.schedule.steps
    episodes = 0
    for source in sources:
        counts = [source.shots.objects(index) for index in range(len(source.dataset.categories))]
        episodes += max(counts) * len(counts)
    per_step = configuration.batch_size * configuration.accumulation * processes
    return max(1, configuration.schedule.epochs * episodes // per_step)


class _Assembly:
    """Makes the parts of a run that need the model's towers."""

    def __init__(
        self,
        configuration: TrainingConfiguration,
        system: System,
        tokenizer: Path | None,
        accelerator: Accelerator,
        reporting: Reporting,
    ) -> None:
        self._configuration = configuration
        self._system = system
        self._accelerator = accelerator
        self._reporting = reporting
        self._tokenizer: Tokenizer | None = None
        if configuration.model.text is not None and tokenizer is not None:
            self._tokenizer = text_tokenizer(tokenizer, configuration.model.text)
        self._encoders: BackboneEncoders | None = None
        if self.caches_features and (configuration.features == "cached" or configuration.validation):
            system.image_backbone.to(accelerator.device)
            self._encoders = BackboneEncoders(system, accelerator.device, configuration.towers.frozen_blocks)

    @property
    def caches_features(self) -> bool:
        """Whether the backbone, or its first blocks, are frozen, so that what they give can be kept."""
        return not self._configuration.towers.train_image or self._configuration.towers.frozen_blocks > 0

    def _open(self, source: SourceConfiguration | ValidationSource) -> KeypointDataset | None:
        """Opens a data set and says what is wrong with its images; None where it may be missing and is."""
        try:
            dataset = open_dataset(source.data)
        except DatasetError as error:
            if not source.optional:
                raise
            self._reporting.note(f"Left out: {error}")
            return None
        if notes := getattr(dataset, "notes", ()):
            for note in notes:
                self._reporting.note(f"{dataset.name}: {note}")
        return dataset

    def texts(self, categories: list[Category]) -> TextBank | None:
        if self._tokenizer is None:
            return None
        if self._configuration.towers.train_text:
            return TextBank.tokenised(categories, self._tokenizer)
        return TextBank.embedded(categories, self._system, self._tokenizer)

    def sources(self) -> list[TrainingSource]:
        configuration = self._configuration
        backbone = configuration.model.backbone
        jitter = configuration.augmentation.jitter
        padding = configuration.model.box_padding
        digest = ""
        if configuration.features == "cached":
            digest = backbone_digest(self._system, configuration.towers.frozen_blocks)
        sources = []
        for source in configuration.sources:
            dataset = self._open(source)
            if dataset is None:
                continue
            if source.keep_images:
                dataset = ImageCache(dataset, configuration.cache_folder, source.data.model_dump(mode="json"))
            if source.hold_out:
                dataset = DatasetPart(dataset, source.hold_out, "first")
            shots: Shots
            if configuration.features == "cached":
                assert self._encoders is not None, "a frozen backbone: the configuration has been checked"
                recipe = FeatureRecipe(
                    source=source.data.model_dump(mode="json"),
                    copies=source.copies,
                    jitter=jitter,
                    size=backbone.image_size,
                    padding=padding,
                    seed=configuration.seed,
                    backbone=digest,
                )
                cache = build_feature_cache(
                    dataset, recipe, self._encoders, configuration.cache_folder, self._reporting.preparing
                )
                if cache.unusable:
                    self._reporting.note(f"{dataset.name}: {cache.unusable} objects cannot be read and are left out")
                shots = cache
            else:
                shots = OnlineShots(dataset, jitter, size=backbone.image_size, padding=padding)
            sources.append(TrainingSource(source, dataset, shots))
        if not sources:
            raise DatasetError("sources: none is left")
        return sources

    def standardisation(self, batches: EpisodeBatches) -> Standardisation:
        """From the queries of the first batches, as the backbone encodes them before training."""
        towers = self._configuration.towers
        self._system.image_backbone.to(self._accelerator.device)
        model = TrainedModel(
            self._system,
            self._configuration.losses,
            train_image=towers.train_image,
            train_text=towers.train_text,
            frozen_blocks=towers.frozen_blocks,
        ).eval()
        sample: list[torch.Tensor] = []
        with torch.inference_mode():
            while sum(len(features) for features in sample) < STANDARDISED_BY:
                query = batches[len(sample)].query.to(self._accelerator.device)
                sample.append(model.features(query).float().cpu())
        standardisation = Standardisation(torch.cat(sample))
        if towers.initial is not None and "head" in towers.initial_parts:
            standardisation.unfold(self._system.cpu())
        return standardisation

    def validation(self) -> list[ValidationSet]:
        sets = []
        for source in self._configuration.validation:
            dataset = self._open(source)
            if dataset is None:
                continue
            if source.held_out:
                dataset = DatasetPart(dataset, source.held_out, "last")
            self._reporting.preparing(f"validation pairs of {dataset.name}", 0, 1)
            texts = self.texts(list(dataset.categories))
            sets.append(
                ValidationSet(
                    dataset,
                    source,
                    texts,
                    self._configuration.model,
                    shots=self._configuration.shots,
                    encoder=self._encoders(1) if self._encoders is not None else None,
                )
            )
            self._reporting.preparing(f"validation pairs of {dataset.name}", 1, 1)
        return sets
