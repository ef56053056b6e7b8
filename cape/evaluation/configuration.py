"""Configuration of an evaluation, from a YAML file and flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cape.data.pairs import EPISODES, QUERIES, SEED
from cape.data.sources import DataSource, first_mistake
from cape.evaluation.baselines import BaselineName
from cape.evaluation.variations import VariationName

PREDICTORS = ("checkpoint", "repository", "target", "baseline")
"""Fields that name the source of predictions."""


class EvaluationConfigurationError(ValueError):
    """An invalid configuration. The message names the file and the field."""


class EvaluationConfiguration(BaseModel):
    """Configuration of an evaluation: source of predictions, data and test pairs.

    Exactly one of `checkpoint`, `repository`, `target` and `baseline` is set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path | None = Field(None, description="Checkpoint folder or published .pth file, run in PyTorch.")
    repository: Path | None = Field(None, description="Exported repository, run in ONNX Runtime.")
    target: str | None = Field(None, description="host:port of a running service, called over gRPC.")
    baseline: BaselineName | None = Field(None, description="Baseline that ignores the image.")
    model: str = Field("", description="models/{system} of a repository or service; empty: its default.")
    data: DataSource
    shots: int = Field(1, ge=0, le=16, description="Support images per episode; 0: queries only.")
    episodes: int = Field(EPISODES, ge=1, description="Episodes per category.")
    queries: int = Field(QUERIES, ge=1, description="Queries per episode.")
    scoring: Literal["common", "published"] = Field(
        "common",
        description="Pairs without a keypoint visible in the query and all supports: left out, or PCK and AUC of 0 as "
        "in the published code.",
    )
    seed: int = Field(SEED, description="Seed of the pairs and the variations.")
    variations: tuple[VariationName, ...] = Field((), description="Variations to measure on the same pairs.")
    vllm: str | None = Field(
        None, description="URL of a vLLM server for a CapeLLM's language model; `checkpoint` is its prompter's folder."
    )
    readout: Literal["greedy", "expectation"] = Field(
        "greedy", description="CapeLLM checkpoints: the most probable digits, or the expectation over digits."
    )
    missing_share: float = Field(0.5, gt=0, le=1, description="Share of texts that `missing_texts` removes.")

    @model_validator(mode="after")
    def _one_source_of_predictions(self) -> EvaluationConfiguration:
        given = [name for name in PREDICTORS if getattr(self, name) is not None]
        if len(given) != 1:
            needed = f"{', '.join(PREDICTORS[:-1])} and {PREDICTORS[-1]}"
            raise ValueError(f"one of {needed} is needed, not {' and '.join(given) or 'none'}")
        if self.vllm is not None and (self.checkpoint is None or self.readout != "greedy"):
            raise ValueError("vllm needs checkpoint, the prompter's folder, and readout greedy")
        return self


def read_configuration(path: Path | None, changes: Mapping[str, Any]) -> EvaluationConfiguration:
    """Reads a configuration.

    Args:
        path: a YAML file; None for none.
        changes: values from flags by field, with a mapping under `data`; they override the file. A source of
            predictions or a kind of data replaces the file's.

    Raises:
        EvaluationConfigurationError: naming the file and the field that is missing or wrong.
    """
    document = _parse(path) if path is not None else {}
    if any(name in changes for name in PREDICTORS):
        document = {name: value for name, value in document.items() if name not in PREDICTORS}
    data, wanted = document.get("data") or {}, changes.get("data") or {}
    if not isinstance(data, dict):
        raise EvaluationConfigurationError(f"{path}: data: a mapping is needed")
    if "kind" in wanted and wanted["kind"] != data.get("kind", wanted["kind"]):
        data = {}
    merged = {**document, **changes, "data": {"kind": "coco", **data, **wanted}}
    try:
        return EvaluationConfiguration.model_validate(merged)
    except ValidationError as error:
        where = f"{path}: " if path is not None else ""
        raise EvaluationConfigurationError(where + first_mistake(error, "").removeprefix(": ")) from None


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationConfigurationError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise EvaluationConfigurationError(f"{path}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise EvaluationConfigurationError(f"{path}: a mapping of fields is needed")
    return document
