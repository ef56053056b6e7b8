"""The one small protocol between what serves and what computes.

`OnnxRuntimeEngine` runs an exported repository in this process; a Triton engine can run the same repository
elsewhere. Everything above them (batching, caches, the pipeline, the API) is the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt

Tensors = Mapping[str, npt.NDArray[Any]]
"""Arrays by input or output name; the first axis of each is the batch."""


class Engine(Protocol):
    """Runs components of a model repository on batches."""

    @property
    def description(self) -> str:
        """What runs the model, for people and metrics: 'onnxruntime:CPUExecutionProvider'."""

    @property
    def concurrency(self) -> int:
        """How many batches may usefully run at the same time."""

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Runs a component on one batch; blocks, and may be called from any thread.

        Args:
            component: a name of the manifest's components.
            inputs: one array per input of the component, batched along the first axis.
            outputs: names of the wanted outputs; others are not returned (and not computed where avoidable).

        Raises:
            EngineError: the component is not there, failed, or answered a shape that the manifest does not give.
        """

    def close(self) -> None:
        """Frees what the engine holds; nothing may run afterwards."""
