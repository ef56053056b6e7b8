"""A training run of a CapeLLM in one typed object; the defaults are the paper's (section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cape.capellm.configuration import CapeLlmConfiguration
from cape.data.sources import DataSource, first_mistake
from cape.training.capellm.conversations import Task
from cape.training.configuration import (
    AugmentationConfiguration,
    LoggingConfiguration,
    OptimizerConfiguration,
    ScheduleConfiguration,
    TrainingConfigurationError,
    read_training_document,
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CapeLlmSource(_Strict):
    """A data set to learn from."""

    data: DataSource
    hold_out: int = Field(default=0, ge=0, description="Objects at the end of each category left for validation.")
    copies: int = Field(default=3, ge=1, description="Cached patches: augmented copies of every object.")
    optional: bool = Field(default=False, description="Left out, with a word, where its data is not there.")


class CapeLlmValidationSource(_Strict):
    """Objects that are looked at during training."""

    data: DataSource
    held_out: int = Field(default=0, ge=0, description="Only so many objects at the end of each category; 0: all.")
    objects: int = Field(default=2, ge=1, description="Objects of each category.")
    optional: bool = False


class LoraConfiguration(_Strict):
    """Adapters on query and value."""

    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)


class BeginningConfiguration(_Strict):
    """Where weights and vocabulary come from; what nothing is said of begins at random."""

    checkpoint: Path | None = Field(default=None, description="An earlier CapeLLM: all of its weights, its tokenizer.")
    vision_folder: Path | None = Field(default=None, description="Hugging Face folder of DINOv2.")
    language_folder: Path | None = Field(
        default=None, description="Hugging Face folder of the language model, with its tokenizer.json."
    )
    tokenizer: Path | None = Field(default=None, description="tokenizer.json, stronger than the folders'.")
    number_waves: bool = Field(
        default=False,
        description="Of a language model from scratch: near numbers begin with similar embeddings, as pretrained "
        "models have it.",
    )


class CapeLlmTrainingConfiguration(_Strict):
    """A whole run."""

    model: CapeLlmConfiguration
    beginning: BeginningConfiguration = BeginningConfiguration()
    sources: tuple[CapeLlmSource, ...] = Field(min_length=1)
    validation: tuple[CapeLlmValidationSource, ...] = ()
    task: Task = Field(default="keypoints", description="Or a pre-training task of the projection (Appendix C).")
    vision: Literal["frozen", "lora", "full"] = Field(default="lora", description="What of the tower is trained.")
    language: Literal["frozen", "lora", "full"] = Field(default="lora", description="Likewise.")
    lora: LoraConfiguration = LoraConfiguration()
    rounds: int = Field(default=4, ge=1, description="k, keypoints asked about in one conversation (Table 4).")
    independent_rounds: bool = Field(
        default=False, description="Rounds do not see each other, as when served; as published they do."
    )
    near_numbers: float = Field(
        default=0.0, ge=0, lt=1, description="Not in the paper: targets of digits spread over so much of the crop."
    )
    features: Literal["online", "cached"] = Field(
        default="online", description="Vision tower in every step, or its patches from a cache: for a frozen one."
    )
    cache_folder: Path = Field(default=Path("build/features"), description="Of cached patches; kept between runs.")
    batch_size: int = Field(default=1, ge=1, description="Conversations of one pass.")
    accumulation: int = Field(default=32, ge=1, description="Passes before an optimiser step.")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: int = Field(default=0, ge=0, description="Processes that prepare batches.")
    seed: int = Field(default=0, ge=0)
    augmentation: AugmentationConfiguration = AugmentationConfiguration(rotation_degrees=0, scale=0)
    optimizer: OptimizerConfiguration = OptimizerConfiguration(kind="adamw", learning_rate=5e-4)
    schedule: ScheduleConfiguration
    logging: LoggingConfiguration = LoggingConfiguration()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.features == "cached" and self.vision != "frozen":
            raise ValueError("patches cannot be cached while the vision tower is trained: set vision to frozen")
        if self.vision == "lora" and self.model.vision.kind != "dinov2":
            raise ValueError(f"vision: {self.model.vision.kind} has no attention to adapt: frozen or full")
        if self.vision == "full" and self.model.vision.weights != "stored":
            raise ValueError("vision: a tower that a package holds cannot be trained: set model.vision.weights: stored")
        if self.task != "keypoints" and (self.vision, self.language) != ("frozen", "frozen"):
            raise ValueError("task: pre-training is of the projection alone: set vision and language to frozen")
        return self


def read_capellm_training_configuration(
    path: Path, variables: Mapping[str, str] | None = None
) -> CapeLlmTrainingConfiguration:
    """Reads a YAML file, as `read_training_configuration` does.

    Raises:
        TrainingConfigurationError: naming the file and the field that is missing or wrong.
    """
    document = read_training_document(path, variables)
    try:
        return CapeLlmTrainingConfiguration.model_validate(document)
    except ValidationError as error:
        raise TrainingConfigurationError(f"{path}: {first_mistake(error, '')}") from None
