"""How far a run has come and what the learning rate is then."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cape.training.configuration import ScheduleConfiguration


@dataclass(frozen=True, slots=True)
class Schedule:
    """Progress and learning rate, both functions of steps and seconds alone.

    Attributes:
        configuration: kind and end.
        steps: optimiser steps in all; None where only time ends the run.
    """

    configuration: ScheduleConfiguration
    steps: int | None

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is over, from 0 to 1, as the learning rate sees it.

        Args:
            step: optimiser steps taken.
            seconds: of training so far, earlier parts of a resumed run included.
        """
        if self.configuration.by == "time":
            assert self.configuration.max_minutes is not None
            return min(1.0, seconds / (60 * self.configuration.max_minutes))
        assert self.steps is not None
        return min(1.0, step / self.steps)

    def factor(self, step: int, seconds: float) -> float:
        """What the learning rate is multiplied by in the step that follows `step` steps."""
        configuration = self.configuration
        warm = min(1.0, (step + 1) / configuration.warmup_steps) if configuration.warmup_steps else 1.0
        progress = self.progress(step, seconds)
        if configuration.kind == "multistep":
            passed = sum(progress >= milestone for milestone in configuration.milestones)
            return float(warm * configuration.factor**passed)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return warm * (configuration.final_factor + (1 - configuration.final_factor) * cosine)

    def finished(self, step: int, seconds: float) -> bool:
        """Whether the run is over."""
        minutes = self.configuration.max_minutes
        return (self.steps is not None and step >= self.steps) or (minutes is not None and seconds >= 60 * minutes)
