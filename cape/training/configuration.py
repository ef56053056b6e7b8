"""A training run in one typed object, read from a YAML file.

The defaults are the paper's (Table 3) where it says something, else those of the public GraphCape configurations.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cape.configuration import SystemConfiguration
from cape.data.crops import Distribution, Jitter
from cape.data.sources import DataSource, first_mistake
from cape.models.efficientnet import MOST_FIRST_BLOCKS
from cape.training.losses import OffsetNormalisation

Initialisation = Literal["published", "small"]


class TrainingConfigurationError(ValueError):
    """A training configuration that cannot be used; the message names the file and the field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfiguration(_Strict):
    """Where training episodes come from: one data set of several."""

    data: DataSource
    weight: float = Field(default=1.0, gt=0, description="Share of the episodes, relative to the other sources.")
    categories: Literal["uniform", "objects"] = Field(
        default="uniform", description="Categories come equally often, or as often as they have objects."
    )
    category_weights: dict[str, float] = Field(
        default_factory=dict, description="Names of categories that come so many times as often; 0: never."
    )
    super_category_weights: dict[str, float] = Field(
        default_factory=dict, description="Likewise for all categories of a super-category; the factors multiply."
    )
    flip: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Probability that an episode is mirrored, left and right keypoints swapped by name. Only for "
        "categories whose names tell every keypoint's side.",
    )
    keep_images: bool = Field(
        default=False,
        description="Synthetic data: keep drawn images in a file under cache_folder, which data processes share.",
    )
    hold_out: int = Field(
        default=0, ge=0, description="Objects at the end of each category that are left for validation."
    )
    copies: int = Field(default=3, ge=1, description="Cached features: augmented copies of every object.")
    optional: bool = Field(default=False, description="Left out, with a word, where its data is not there.")

    @model_validator(mode="after")
    def _only_synthetic_images_have_one_size(self) -> Self:
        if self.keep_images and self.data.kind != "synthetic":
            raise ValueError("keep_images: only synthetic images are all of one size")
        return self


class ValidationSource(_Strict):
    """Held-out objects that are looked at during training."""

    data: DataSource
    held_out: int = Field(default=0, ge=0, description="Only so many objects at the end of each category; 0: all.")
    episodes: int = Field(default=5, ge=1, description="Episodes of each category.")
    queries: int = Field(default=4, ge=1, description="Queries of an episode.")
    optional: bool = False


class AugmentationConfiguration(_Strict):
    """What happens to crops and texts."""

    rotation_degrees: float = Field(default=15.0, ge=0, le=180)
    scale: float = Field(default=0.15, ge=0, lt=1)
    rotation_distribution: Distribution = Field(
        default="uniform",
        description="'uniform' up to rotation_degrees, or 'normal' with that standard deviation, clipped at twice it.",
    )
    scale_distribution: Distribution = Field(
        default="uniform", description="'uniform' up to scale, or 'normal' with that standard deviation, clipped at it."
    )
    rotation_probability: float = Field(default=1.0, ge=0, le=1, description="Share of crops that are rotated.")
    paraphrase: float = Field(
        default=0.0, ge=0, le=1, description="Probability that a keypoint is named by another of its texts."
    )

    photometric: float = Field(
        default=0.0, ge=0, le=1, description="Strength of random changes of colour, blur and noise; online features."
    )
    random_convolution: float = Field(
        default=0.0, ge=0, le=1, description="Probability that an image's texture is changed by a random convolution."
    )
    anonymous: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Probability that an episode with a support image names its keypoints 'keypoint 1', "
        "'keypoint 2', …, as many annotation files do.",
    )

    @property
    def jitter(self) -> Jitter:
        """Of crops."""
        return Jitter(
            self.rotation_degrees,
            self.scale,
            self.rotation_distribution,
            self.scale_distribution,
            self.rotation_probability,
        )


class ModalityDropout(_Strict):
    """Supports that lack a modality, so that a model learns to work without."""

    image: float = Field(default=0.0, ge=0, le=1, description="Probability of an episode without support image.")
    text: float = Field(default=0.0, ge=0, le=1, description="Probability of an episode without texts.")

    @model_validator(mode="after")
    def _one_is_left(self) -> Self:
        if self.image + self.text > 1:
            raise ValueError("image and text together are more than 1: nothing would be left")
        return self


class LossWeights(_Strict):
    """Weights of the loss terms (equations 8 and 9)."""

    heatmap: float = Field(default=2.0, ge=0, description="λ_heatmap; 2.0 in the public configurations.")
    offset: float = Field(default=1.0, ge=0)
    proposal: float = Field(default=0.0, ge=0, description="The public code's loss of initial proposals; 1.0 there.")
    consistency: float = Field(default=1.0, ge=0, description="λ_consistency, for DLF.")
    matching: float = Field(
        default=0.0, ge=0, description="Not in the paper: cross-entropy of the similarity map, for short runs."
    )
    contrast: float = Field(
        default=0.0,
        ge=0,
        description="Not in the paper: cross-entropy of each keypoint over the places of all keypoints of the query.",
    )
    mirror: float = Field(
        default=0.0, ge=0, description="Not in the paper: likewise over a keypoint and its mirrored partner alone."
    )
    offset_normalisation: OffsetNormalisation = Field(
        default="equation", description="'equation': as equation 7 is printed; 'keypoints': as the public code has it."
    )


class OptimizerConfiguration(_Strict):
    """Adam, as in Table 3, or AdamW."""

    kind: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(default=1e-5, gt=0)
    tower_factor: float = Field(default=1.0, gt=0, description="Learning rate of trained towers ÷ that of the head.")
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = Field(default=None, gt=0, description="Largest norm of the gradient; unset: any.")


class ScheduleConfiguration(_Strict):
    """How long, and the learning rate on the way: linear warm-up, then steps down or a cosine."""

    kind: Literal["multistep", "cosine"] = "multistep"
    steps: int | None = Field(default=None, ge=1, description="Optimiser steps in all.")
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Instead of steps. As published, an epoch has as many episodes as there would be "
        "if every category had as many objects as the largest.",
    )
    max_minutes: float | None = Field(default=None, gt=0, description="Ends after so many minutes of training.")
    by: Literal["steps", "time"] = Field(
        default="steps", description="What the schedule follows: steps, or the share of max_minutes that has passed."
    )
    warmup_steps: int = Field(default=1000, ge=0)
    milestones: tuple[float, ...] = Field(
        default=(0.8, 0.9), description="Multistep: shares of the run after which the rate falls."
    )
    factor: float = Field(default=0.1, gt=0, lt=1, description="Multistep: what it is multiplied by there.")
    final_factor: float = Field(default=0.0, ge=0, lt=1, description="Cosine: last rate ÷ first rate.")

    @model_validator(mode="after")
    def _an_end(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        if self.by == "time" and self.max_minutes is None:
            raise ValueError("by time needs max_minutes")
        if self.by == "steps" and self.steps is None and self.epochs is None:
            raise ValueError("by steps needs steps or epochs")
        return self


class TowerConfiguration(_Strict):
    """Which towers are trained, and where their weights come from."""

    train_image: bool = True
    frozen_blocks: int = Field(
        default=0,
        ge=0,
        description="EfficientNet-Lite0: so many blocks from the image on stay as they are where train_image is true; "
        "what they give can be cached.",
    )
    support_gradient: bool = Field(
        default=True,
        description="False: a trained backbone learns from queries alone, which saves a third of its work.",
    )
    train_text: bool = False
    initial: Path | None = Field(
        default=None, description="A checkpoint folder or published .pth file: what of it fits is the beginning."
    )
    initial_parts: tuple[Literal["image_backbone", "text_encoder", "head"], ...] = ("image_backbone", "text_encoder")
    image_file: Path | None = Field(default=None, description="Swin V2 weights as Microsoft publishes them (.pth).")
    text_folder: Path | None = Field(default=None, description="Hugging Face folder of the text encoder's weights.")


class LoggingConfiguration(_Strict):
    """How often something is written down."""

    every_steps: int = Field(default=50, ge=1, description="Steps that a row of the log is the mean of.")
    save_seconds: float = Field(default=90.0, gt=0, description="Between two saved states.")
    validate_steps: int = Field(default=1000, ge=1)
    tensorboard: bool = True


class TrainingConfiguration(_Strict):
    """A whole training run."""

    model: SystemConfiguration
    sources: tuple[SourceConfiguration, ...] = Field(min_length=1)
    validation: tuple[ValidationSource, ...] = ()
    towers: TowerConfiguration = TowerConfiguration()
    initialisation: Initialisation = Field(
        default="published",
        description="Of the head: Xavier as in the public code, or PyTorch's own, half as large: learns sooner.",
    )
    features: Literal["online", "cached"] = Field(
        default="online", description="Backbone in every step, or its features from a cache: for a frozen backbone."
    )
    cache_folder: Path = Field(default=Path("build/features"), description="Of cached features; kept between runs.")
    batch_size: int = Field(default=8, ge=1, description="Episodes of one pass, on each device.")
    group: int = Field(
        default=0,
        ge=0,
        description="Draws this many images of a category at a time and makes every image the query of `rounds` "
        "episodes whose supports are others of the group: each image is read and encoded once. 0: every episode has "
        "images of its own. batch_size is a multiple of group × rounds.",
    )
    rounds: int = Field(default=1, ge=1, description="Episodes of a group in which an image is the query.")
    accumulation: int = Field(default=1, ge=1, description="Passes before an optimiser step.")
    shots: int = Field(default=1, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="bfloat16 is autocast; auto takes it where the hardware multiplies it."
    )
    workers: int = Field(default=0, ge=0, description="Processes that prepare batches; 0: none besides the training.")
    seed: int = Field(default=0, ge=0)
    augmentation: AugmentationConfiguration = AugmentationConfiguration()
    modality_dropout: ModalityDropout = ModalityDropout()
    losses: LossWeights = LossWeights()
    optimizer: OptimizerConfiguration = OptimizerConfiguration()
    schedule: ScheduleConfiguration
    logging: LoggingConfiguration = LoggingConfiguration()

    @field_validator("model", mode="before")
    @classmethod
    def _packaged_text(cls, value: Any) -> Any:
        """`text: package:NAME` stands for the configuration of that package's tower."""
        if isinstance(value, Mapping) and isinstance(value.get("text"), str):
            from cape.pretrained.text_encoders import packaged_text_encoder

            name = value["text"].removeprefix("package:")
            return {**value, "text": packaged_text_encoder(name).configuration}
        return value

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        towers = self.towers
        if self.features == "cached" and towers.train_image and not towers.frozen_blocks:
            raise ValueError(
                "features cannot be cached while the whole backbone is trained: set towers.train_image to false, or "
                "towers.frozen_blocks"
            )
        if towers.frozen_blocks and not towers.train_image:
            raise ValueError("towers.frozen_blocks: the whole backbone is frozen, since towers.train_image is false")
        if towers.frozen_blocks and self.model.backbone.kind != "efficientnet_lite0":
            raise ValueError(f"towers.frozen_blocks: {self.model.backbone.kind} cannot be split")
        if towers.frozen_blocks > MOST_FIRST_BLOCKS:
            raise ValueError(f"towers.frozen_blocks: {towers.frozen_blocks} are more than {MOST_FIRST_BLOCKS}")
        self._check_groups()
        if self.features == "cached":
            for name in ("photometric", "random_convolution"):
                if getattr(self.augmentation, name):
                    raise ValueError(f"augmentation.{name}: cached features do not change; set features to online")
            if any(source.flip for source in self.sources):
                raise ValueError("sources.flip: cached features cannot be mirrored; set features to online")
        dropped = self.modality_dropout.image + self.modality_dropout.text > 0
        if dropped and not (self.model.reads_images and self.model.reads_text):
            raise ValueError(f"modality_dropout: {self.model.system} has one modality only")
        if dropped and self.model.system == "flf" and not self.model.modality_dropout:
            raise ValueError("modality_dropout: set model.modality_dropout to true, or supports may lack nothing")
        return self

    def _check_groups(self) -> None:
        if not self.group:
            return
        if self.shots != 1:
            raise ValueError("group: an image's supports are single shots; set shots to 1")
        if self.rounds >= self.group:
            raise ValueError(f"rounds: {self.rounds} supports for an image need a group of at least {self.rounds + 1}")
        if self.batch_size % (self.group * self.rounds):
            raise ValueError(f"batch_size: {self.batch_size} is not a multiple of group × rounds")


_VARIABLE = re.compile(r"\$\{(\w+)\}")


def read_training_configuration(path: Path, variables: Mapping[str, str] | None = None) -> TrainingConfiguration:
    """Reads a YAML file; `${NAME}` in it stands for a variable.

    In an optional source it may stay unset: its data is not there then.

    Args:
        path: the file.
        variables: stronger than those of the environment.

    Raises:
        TrainingConfigurationError: naming the file and the field that is missing or wrong.
    """
    document = read_training_document(path, variables)
    try:
        return TrainingConfiguration.model_validate(document)
    except ValidationError as error:
        raise TrainingConfigurationError(f"{path}: {first_mistake(error, '')}") from None
    except ValueError as error:
        raise TrainingConfigurationError(f"{path}: {error}") from None


def read_training_document(path: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Reads a YAML file of any kind of training, its variables filled in, see `read_training_configuration`.

    Raises:
        TrainingConfigurationError: it cannot be read, or a variable is missing.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise TrainingConfigurationError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise TrainingConfigurationError(f"{path}: not a mapping of names to values")
    filled = _filled(document, {**os.environ, **(variables or {})}, path)
    assert isinstance(filled, dict), "a mapping stays one"
    return filled


def _filled(value: Any, known: Mapping[str, str], path: Path) -> Any:
    if isinstance(value, dict):
        if value.get("optional") is True and not set(_VARIABLE.findall(str(value))) <= known.keys():
            return value
        return {key: _filled(inner, known, path) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, known, path) for inner in value]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if name not in known:
            raise TrainingConfigurationError(f"{path}: the variable {name} is not set; set it, or give --data {name}=…")
    return _VARIABLE.sub(lambda match: known[match[1]], value)
