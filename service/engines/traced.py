"""A row runner whose rows are spans: how long each waited, and how long its batch ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from service.engines.base import BatchResult, BatchRunner
from service.telemetry.spans import describe_span, span


class TracedRunner:
    """Passes rows on to a runner, in a span each. Implements `service.engines.base.BatchRunner`."""

    def __init__(self, runner: BatchRunner) -> None:
        """Takes the runner, which it does not own."""
        self._runner = runner
        self.query_model = runner.query_model
        self.close = runner.close

    @property
    def description(self) -> str:
        """The runner's."""
        return self._runner.description

    @property
    def healthy(self) -> bool:
        """The runner's."""
        return self._runner.healthy

    @property
    def hanging(self) -> bool:
        """The runner's."""
        return self._runner.hanging

    @property
    def queued(self) -> int:
        """The runner's."""
        return self._runner.queued

    async def submit(
        self,
        component: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> BatchResult:
        """See `service.engines.base.BatchRunner.submit`."""
        with span(f"run {component}"):
            row = await self._runner.submit(component, inputs, outputs, deadline)
            describe_span({"capeserve.queue_seconds": row.waited, "capeserve.run_seconds": row.ran})
            return row
