"""What a run remembers beside the model: enough to go on bit for bit after a kill.

Batches and dropout are functions of the seed and the step's number, and the learning rate of steps and seconds, so
weights, the optimiser's moments, these two numbers and the best score are all there is. The file holds tensors,
numbers and strings alone and is read without unpickling anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STATE_FILE = "state.pt"


class TrainingStateError(ValueError):
    """A saved state that cannot be gone on from; the message names the file."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a run stands.

    Attributes:
        step: optimiser steps taken.
        seconds: of training so far.
        best: the best validation score; −1 before the first.
        model: weights that are trained, and buffers that training changes.
        optimizer: `state_dict` of the optimiser.
        configuration: the configuration, as JSON: what it says of model, data and optimiser must not change.
    """

    step: int
    seconds: float
    best: float
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    configuration: str


def save_state(state: TrainingState, folder: Path) -> None:
    """Writes a state, replacing an earlier one atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{STATE_FILE}.partial"
    torch.save({name: getattr(state, name) for name in TrainingState.__slots__}, partial)
    partial.replace(folder / STATE_FILE)


def load_state(folder: Path) -> TrainingState:
    """Reads a state.

    Raises:
        TrainingStateError: there is none, or the file is damaged.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise TrainingStateError(f"{path}: there is no run to resume")
    try:
        return TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # pickle, zip and torch errors alike: none of them says what the file should be
        raise TrainingStateError(f"{path}: not a saved state ({type(error).__name__})") from None
