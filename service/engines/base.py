"""The protocols between serving and inference.

Pipelines call a `BatchRunner`: it runs a component on one batch item. There are two. `Batcher` merges the items of many
callers into batches for an `Engine` in this process, such as `OnnxRuntimeEngine`. `TritonEngine` sends each item to a
Triton server, which batches by itself. Caches, pipelines and the API are the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from cape.manifest import Manifest

Tensors = Mapping[str, npt.NDArray[Any]]
"""Arrays by input or output name; the first axis of each is the batch."""

CPU_BATCH = 4
"""Largest batch of the image backbone on CPUs. Larger batches are no faster per crop there, and each crop takes about
80 MiB while it runs (Swin V2-S), whose pages are slow to allocate the first time."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Result of one batch item.

    Attributes:
        outputs: the requested outputs without batch axis. They are views of the batch: copy what is kept.
        waited: seconds between submission and the start of its batch.
        ran: seconds that the batch ran.
    """

    outputs: dict[str, npt.NDArray[Any]]
    waited: float
    ran: float


class BatchObserver:
    """Callbacks for queue and batch events. The base class ignores all of them."""

    def queue_depth(self, component: str, items: int) -> None:
        """The number of items that wait for `component` has changed."""

    def batch_started(self, component: str, waits: Sequence[float]) -> None:
        """A batch starts. `waits` has the seconds that each of its items waited."""

    def item_dropped(self, component: str, reason: str) -> None:
        """An item left the queue without a result: 'deadline', 'cancelled', 'full' or 'engine'."""

    def run_finished(self, component: str, seconds: float) -> None:
        """The engine ran a batch in `seconds`."""

    def run_failed(self, component: str) -> None:
        """The engine failed on a batch, or hangs."""

    def engine_healthy(self, healthy: bool) -> None:
        """The engine hangs (False), or answers again (True)."""


class Engine(Protocol):
    """Runs components of a model repository on batches."""

    @property
    def description(self) -> str:
        """What runs the model, for people and metrics: 'onnxruntime:CPUExecutionProvider'."""

    @property
    def concurrency(self) -> int:
        """Number of batches that may usefully run at the same time."""

    @property
    def useful_batch(self) -> int | None:
        """Largest useful batch of the image backbone; None: as many crops as the models take."""

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Runs a component on one batch. Blocks; may be called from any thread.

        Args:
            component: a name of the manifest's components; of a `QueryEngine`, also what `query_model` returns.
            inputs: one array per input of the component, batched along the first axis.
            outputs: names of the outputs to return; others are not computed where that can be avoided.

        Raises:
            EngineError: the component is unknown, failed, or returned a shape that the manifest does not give.
        """

    def close(self) -> None:
        """Releases all resources. No run may follow."""


@runtime_checkable
class QueryEngine(Engine, Protocol):
    """An engine with models that run a query at once."""

    def query_model(self, system: str) -> str | None:
        """A model that runs a system's image backbone and pose decoder at once, so that features stay inside.

        Returns:
            Its name, for `run`: the inputs of the pose decoder, with `image` in place of `features`. None where
            there is no such model.
        """


class BatchRunner(Protocol):
    """Runs components on single batch items of many callers. Use it within one event loop."""

    @property
    def description(self) -> str:
        """What runs the models, for people and metrics: 'onnxruntime:CPUExecutionProvider'."""

    @property
    def healthy(self) -> bool:
        """Whether items can be answered now. The server reports it as its health."""

    @property
    def hanging(self) -> bool:
        """Whether an engine run in this process exceeds its time limit. It cannot be stopped."""

    @property
    def queued(self) -> int:
        """Number of waiting items."""

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
    ) -> BatchResult:
        """Runs a component on one batch item. Cancelling the caller withdraws the item.

        Args:
            component: a component of the manifest, or what `query_model` names.
            inputs: arrays by input name, without batch axis. Do not change them until this returns.
            outputs: names of the outputs to return.
            deadline: event loop time by which the result is needed.

        Raises:
            DeadlineError: the deadline has passed, or cannot be kept.
            QueueFullError: too many items wait.
            EngineError: the engine failed on the item, hangs or is unreachable, or the runner is closed.
        """

    async def close(self) -> None:
        """Refuses new items and returns once the accepted ones are served."""


def query_models(engine: Engine, manifest: Manifest) -> dict[str, str]:
    """Names of an engine's query models by system; empty for an engine that has none."""
    if not isinstance(engine, QueryEngine):
        return {}
    models = {system: engine.query_model(system) for system in manifest.support_systems}
    return {system: model for system, model in models.items() if model is not None}
