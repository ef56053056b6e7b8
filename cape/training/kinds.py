"""From a configuration file to the run that it describes: the only place that knows every kind of run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from cape.capellm.tokenizer import TokenizerError
from cape.training.configuration import (
    TrainingConfigurationError,
    read_training_configuration,
    read_training_document,
)
from cape.training.run import Reporting, train

__all__ = ["Run", "TokenizerError", "TrainingConfigurationError", "read_run"]


class Run(Protocol):
    """A run that is ready to go; see `cape.training.run.train`."""

    def __call__(self, output: Path, reporting: Reporting, *, resume: bool = False) -> int:
        """Trains; returns the optimiser steps taken in all."""


def read_run(path: Path, variables: Mapping[str, str], max_minutes: float | None = None) -> Run:
    """Reads a run of any kind.

    Args:
        path: the YAML file; its `model.system` says which kind it is.
        variables: see `read_training_configuration`.
        max_minutes: instead of the configuration's.

    Raises:
        TrainingConfigurationError: naming the file and the field that is missing or wrong.
        ModuleNotFoundError: peft, which a CapeLLM is trained with, is not installed.
    """
    changes = {} if max_minutes is None else {"max_minutes": max_minutes}
    model = read_training_document(path, variables).get("model")
    if isinstance(model, Mapping) and model.get("system") == "capellm":
        from cape.training.capellm.configuration import read_capellm_training_configuration
        from cape.training.capellm.run import train_capellm

        language = read_capellm_training_configuration(path, variables)
        schedule = language.schedule.model_copy(update=changes)
        return partial(train_capellm, language.model_copy(update={"schedule": schedule}))
    settings = read_training_configuration(path, variables)
    schedule = settings.schedule.model_copy(update=changes)
    return partial(train, settings.model_copy(update={"schedule": schedule}))
