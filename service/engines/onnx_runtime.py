"""Runs an exported repository in this process, with ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime

from cape.manifest import MODEL_FILE, Manifest
from service.cpus import available_cpus
from service.engines import rtx_plugin
from service.engines.base import CPU_BATCH, Tensors
from service.engines.cuda_libraries import load_libraries
from service.engines.tensors import check_finite, check_tensors, wanted_tensors
from service.errors import EngineError

logger = logging.getLogger(__name__)

PROVIDERS = (
    "NvTensorRTRTXExecutionProvider",
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "OpenVINOExecutionProvider",
    "CPUExecutionProvider",
)
"""Execution providers, best first."""

HOST_PROVIDERS = ("OpenVINOExecutionProvider", "CPUExecutionProvider")
"""Providers whose runs each use every CPU, so that a second one at the same time gains nothing."""


class OnnxRuntimeEngine:
    """One ONNX Runtime session per component. Implements `service.engines.base.Engine`."""

    def __init__(
        self,
        repository: Path,
        manifest: Manifest,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Loads every component.

        Args:
            repository: folder of an exported repository.
            manifest: its manifest.
            threads: threads of a run; None takes one per CPU that this process may use.
            providers: execution providers, best first; None takes the best that are installed.

        Raises:
            EngineError: a graph cannot be loaded, or a demanded provider is not installed or does not work.
        """
        self._manifest = manifest
        installed = onnxruntime.get_available_providers()
        cards = _plug_in_devices(installed, providers)
        if cards:
            installed = [rtx_plugin.PROVIDER, *installed]
        for provider in providers or ():
            if provider not in installed:
                raise EngineError("engine", f"no {provider} here; installed are {', '.join(installed)}")
        wanted = list(providers) if providers else [name for name in PROVIDERS if name in installed]
        load_libraries(wanted)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # A memory pattern is a block of its own for every batch size that is met; they add up, and gain no time.
        options.enable_mem_pattern = False
        # Threads that spin after a run take the CPUs from the next component's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if cards and wanted[0] == rtx_plugin.PROVIDER:
            options.add_provider_for_devices(cards, {})

        def load(component: str) -> onnxruntime.InferenceSession:
            try:
                # What the options hold is all that there is: names given beside them would replace it.
                names = None if options.has_providers() else wanted
                return onnxruntime.InferenceSession(
                    repository / component / MODEL_FILE, sess_options=options, providers=names
                )
            except Exception as error:
                raise EngineError(component, f"cannot be loaded: {error}") from error

        with ThreadPoolExecutor(min(len(manifest.components), 4)) as pool:
            sessions = pool.map(load, manifest.components)
            self._sessions = dict(zip(manifest.components, sessions, strict=True))
        # ONNX Runtime falls back in silence where a provider's libraries do not load.
        for component, session in self._sessions.items():
            if providers and session.get_providers()[0] != wanted[0]:
                raise EngineError(component, f"{wanted[0]} does not work here; see ONNX Runtime's own messages")
        self._provider = next(iter(self._sessions.values())).get_providers()[0]

    @property
    def description(self) -> str:
        """'onnxruntime:' and the execution provider in use."""
        return f"onnxruntime:{self._provider}"

    @property
    def concurrency(self) -> int:
        """One batch at a time on CPUs; two on an accelerator, so that one is prepared while the other computes."""
        return 1 if self._provider in HOST_PROVIDERS else 2

    @property
    def useful_batch(self) -> int | None:
        """See `service.engines.base.CPU_BATCH`; none on an accelerator."""
        return CPU_BATCH if self._provider in HOST_PROVIDERS else None

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Runs a component on one batch; see `service.engines.base.Engine.run`.

        Raises:
            EngineError: no such component or output; inputs or outputs of another shape or type than the
                manifest says; ONNX Runtime failed; or an output holds NaN or infinity.
        """
        session = self._sessions.get(component)
        if session is None:
            raise EngineError(component, "no such component")
        spec = self._manifest.components[component]
        sizes: dict[str, int] = {}
        check_tensors(component, spec.inputs, inputs, sizes)
        wanted = wanted_tensors(component, spec.outputs, outputs)
        names = [tensor.name for tensor in wanted]
        try:
            results = dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise EngineError(component, f"{type(error).__name__}: {error}") from error
        check_tensors(component, wanted, results, sizes)
        check_finite(component, results)
        return results

    def close(self) -> None:
        """Frees the sessions."""
        self._sessions.clear()


def _plug_in_devices(installed: Sequence[str], demanded: Sequence[str] | None) -> list[onnxruntime.OrtEpDevice]:
    """The cards of TensorRT for RTX, where that is a plug-in: built into ONNX Runtime it needs none.

    Raises:
        EngineError: it is demanded first of all, and does not work.
    """
    if rtx_plugin.PROVIDER in installed:
        return []
    try:
        if demanded and demanded[0] == rtx_plugin.PROVIDER:
            return list(rtx_plugin.devices())
        if not demanded and rtx_plugin.is_installed():
            return list(rtx_plugin.devices())
    except rtx_plugin.PlugInError as error:
        if demanded:
            raise EngineError("engine", str(error)) from error
        logger.warning("%s; going on without", error)
    return []
