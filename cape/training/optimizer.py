"""The optimiser of a run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cape.models.system import System
from cape.training.configuration import OptimizerConfiguration
from cape.training.model import TrainedModel


def make_optimizer(model: TrainedModel, configuration: OptimizerConfiguration) -> torch.optim.Optimizer:
    """Adam or AdamW over what is trained: the head, and towers at a rate of their own."""
    towers = [p for p in _tower_parameters(model.system) if p.requires_grad]
    known = {id(parameter) for parameter in towers}
    head = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    rate = configuration.learning_rate
    groups = [{"params": head, "lr": rate, "base_rate": rate}]
    if towers:
        tower_rate = rate * configuration.tower_factor
        groups.append({"params": towers, "lr": tower_rate, "base_rate": tower_rate})
    kind = torch.optim.AdamW if configuration.kind == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate, betas=configuration.betas, weight_decay=configuration.weight_decay)


def _tower_parameters(system: System) -> Iterator[Tensor]:
    for tower in (system.image_backbone, system.text_encoder):
        if tower is not None:
            yield from tower.parameters()
