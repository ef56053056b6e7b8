"""The two small protocols between what serves and what computes.

`RowRunner` is what the pipeline stands on: run a component on one batch item. `Batcher` does that by putting the
rows of many callers into batches for an `Engine` in this process, such as `OnnxRuntimeEngine`; `TritonEngine` sends
each to a Triton server, whose own dynamic batcher does the same. Everything above (caches, the pipeline, the API)
is the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from cape.manifest import Manifest
from service.batching.queues import RowResult

Tensors = Mapping[str, npt.NDArray[Any]]
"""Arrays by input or output name; the first axis of each is the batch."""

CPU_BATCH = 4
"""Crops in a run of the image backbone on CPUs. Larger ones are no faster a crop there, the products being large enough
as they are, but each crop takes some 80 MiB while it runs (Swin V2-S), whose pages are slow to get the first time."""


class Engine(Protocol):
    """Runs components of a model repository on batches."""

    @property
    def description(self) -> str:
        """What runs the model, for people and metrics: 'onnxruntime:CPUExecutionProvider'."""

    @property
    def concurrency(self) -> int:
        """How many batches may usefully run at the same time."""

    @property
    def useful_batch(self) -> int | None:
        """Crops in a run of the image backbone beyond which none gets faster; None: as many as the models take."""

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Runs a component on one batch; blocks, and may be called from any thread.

        Args:
            component: a name of the manifest's components; of a `QueryEngine`, also what `query_model` returns.
            inputs: one array per input of the component, batched along the first axis.
            outputs: names of the wanted outputs; others are not returned (and not computed where avoidable).

        Raises:
            EngineError: the component is not there, failed, or answered a shape that the manifest does not give.
        """

    def close(self) -> None:
        """Frees what the engine holds; nothing may run afterwards."""


@runtime_checkable
class QueryEngine(Engine, Protocol):
    """An engine with models that run a query at once."""

    def query_model(self, system: str) -> str | None:
        """A model that runs a system's image backbone and pose decoder at once, so that features stay inside.

        Returns:
            Its name, for `run`: the inputs of the pose decoder, with `image` in place of `features`. None where
            there is no such model.
        """


class RowRunner(Protocol):
    """Runs components for many callers at once, each on a row of its own; for use within one event loop."""

    @property
    def description(self) -> str:
        """What runs the models, for people and metrics: 'onnxruntime:CPUExecutionProvider'."""

    @property
    def healthy(self) -> bool:
        """Whether rows can be answered now; the server reports it as its health."""

    @property
    def hanging(self) -> bool:
        """Whether something runs in this process that takes longer than it may, and cannot be stopped."""

    @property
    def queued(self) -> int:
        """Rows that wait."""

    def query_model(self, system: str) -> str | None:
        """A model that takes a query's crop together with the support's tokens, so that features stay inside.

        Returns:
            Its name, for `submit`: the inputs of the pose decoder, with `image` in place of `features`. None where
            there is no such model, and backbone and decoder run one after the other.
        """

    async def submit(
        self,
        component: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> RowResult:
        """Runs a component on one batch item. Cancelling the caller takes the row back.

        Args:
            component: a component of the manifest, or what `query_model` names.
            inputs: arrays by input name, without batch axis; not to be changed until this returns.
            outputs: names of the wanted outputs.
            deadline: event loop time by which the result is needed.

        Raises:
            DeadlineError: the deadline has passed, or cannot be kept.
            QueueFullError: too many rows wait.
            EngineError: the engine failed on the row, hangs, is gone, or the runner is closed.
        """

    async def close(self) -> None:
        """Refuses new rows and returns once those at hand are served."""


def query_models(engine: Engine, manifest: Manifest) -> dict[str, str]:
    """Names of an engine's query models by system; empty for an engine that has none."""
    if not isinstance(engine, QueryEngine):
        return {}
    models = {system: engine.query_model(system) for system in manifest.support_systems}
    return {system: model for system, model in models.items() if model is not None}
