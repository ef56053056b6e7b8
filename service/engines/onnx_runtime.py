"""Runs an exported repository in this process, with ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime

from cape.manifest import MODEL_FILE, Manifest, Precision, VariantManifest
from service.engines import rtx_plugin
from service.engines.base import CPU_BATCH, Tensors
from service.engines.bound_component import CaptureError
from service.engines.bound_models import BATCHES, QUERY_ROLES, BoundModels
from service.engines.cuda_libraries import load_libraries
from service.engines.device_memory import CudaMemory, DeviceError
from service.engines.tensors import check_finite, check_tensors, wanted_tensors
from service.errors import EngineError
from service.process.cpus import available_cpus

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


GRAPH_PROVIDER = "CUDAExecutionProvider"
"""The provider whose runs are captured as CUDA graphs."""


class OnnxRuntimeEngine:
    """One ONNX Runtime session per component. Implements `service.engines.base.QueryEngine`.

    On the CUDA provider, components run on fixed buffers and as CUDA graphs (see `bound_models`). Where that fails, the
    reason is logged and they run the ordinary way.
    """

    def __init__(
        self,
        repository: Path,
        manifest: Manifest,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        *,
        precision: Precision = "float32",
        graphs: bool = True,
        fused: bool = True,
    ) -> None:
        """Loads every component.

        Args:
            repository: folder of an exported repository.
            manifest: its manifest.
            threads: threads of a run; None takes one per CPU that this process may use.
            providers: execution providers, best first; None takes the best that are installed.
            precision: float16 loads each component's float16 graph; only on an accelerator.
            graphs: use CUDA graphs where the provider has them.
            fused: use the repository's graphs with fused operators where the provider has those.

        Raises:
            EngineError: a graph cannot be loaded, a demanded provider is not installed or does not work, or the
                repository has no graphs of the precision.
        """
        self._manifest, self._repository, self._precision = manifest, repository, precision
        installed = onnxruntime.get_available_providers()
        self._devices = _plug_in_devices(installed, providers)
        if self._devices:
            installed = [rtx_plugin.PROVIDER, *installed]
        for provider in providers or ():
            if provider not in installed:
                raise EngineError("engine", f"no {provider} here; installed are {', '.join(installed)}")
        self._wanted = list(providers) if providers else [name for name in PROVIDERS if name in installed]
        load_libraries(self._wanted)
        self._threads = threads or available_cpus()
        self._fused = fused
        self._bound: BoundModels | None = None
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        if graphs and self._wanted[0] == GRAPH_PROVIDER and manifest.support_systems:
            self._load_bound()
        if self._bound is None:
            self._sessions = self._load()
        # ONNX Runtime falls back in silence where a provider's libraries do not load.
        for component, session in self._sessions.items():
            if providers and session.get_providers()[0] != self._wanted[0]:
                raise EngineError(component, f"{self._wanted[0]} does not work here; see ONNX Runtime's own messages")
        self._provider = next(iter(self._sessions.values())).get_providers()[0]

    def _load_bound(self) -> None:
        """Loads the components on fixed buffers with CUDA graphs; logs why where that fails."""
        systems = self._manifest.support_systems.values()
        captured = {part for system in systems for part in system.components.values()}
        try:
            queries = {system.components[role] for system in systems for role in QUERY_ROLES}
            # The CUDA runtime is loaded with the provider, which the smallest component brings in.
            smallest = min(self._manifest.components, key=lambda name: self._manifest.components[name].bytes)
            if self._session(smallest, {}).get_providers()[0] != GRAPH_PROVIDER:
                raise DeviceError("the provider does not load; see ONNX Runtime's own messages")
            # A component that cannot be captured runs without a graph, unless queries need it.
            while self._bound is None and queries <= captured:
                try:
                    self._bound = self._bind(captured)
                except CaptureError as error:
                    logger.warning("no CUDA graphs of %s: %s", error.component, _first_line(error))
                    captured = captured - {error.component}
        except Exception as error:
            logger.warning("CUDA graphs are off: %s", _first_line(error))
        if self._bound is not None:
            logger.info("queries run as CUDA graphs, in batches of %s", ", ".join(map(str, BATCHES)))

    def _bind(self, captured: Collection[str]) -> BoundModels:
        """Loads the components on fixed buffers.

        Args:
            captured: components to capture.

        Raises:
            CaptureError: naming the component that cannot be captured.
            DeviceError: the CUDA runtime failed.
        """
        memory = CudaMemory()
        try:
            stream = {"user_compute_stream": str(memory.stream)}
            sessions = self._load(
                {
                    name: {**stream, "enable_cuda_graph": "1"} if name in captured else stream
                    for name in self._manifest.components
                }
            )
            bound = BoundModels(sessions, self._manifest, memory, captured=captured)
            bound.warm_up()
        except BaseException as error:
            with suppress(DeviceError):
                memory.close()
            if isinstance(error, EngineError) and error.component in captured:
                raise CaptureError(error.component, str(error)) from error
            raise
        self._sessions = sessions
        return bound

    def _load(self, options: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, onnxruntime.InferenceSession]:
        """Loads every component, with options of the provider by component."""
        components = self._manifest.components
        with ThreadPoolExecutor(min(len(components), 4)) as pool:
            sessions = pool.map(lambda name: self._session(name, (options or {}).get(name, {})), components)
            return dict(zip(components, sessions, strict=True))

    def _session(self, component: str, provider_options: Mapping[str, str]) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # A memory pattern is a block of its own for every batch size that is met; they add up, and gain no time.
        options.enable_mem_pattern = False
        # Threads that spin after a run take the CPUs from the next component's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._devices and self._wanted[0] == rtx_plugin.PROVIDER:
            options.add_provider_for_devices(self._devices, {})
        first: Any = self._wanted[0]
        if provider_options:
            first = first, dict(provider_options)
        try:
            # What the options hold is all that there is: names given beside them would replace it.
            names = None if options.has_providers() else [first, *self._wanted[1:]]
            return onnxruntime.InferenceSession(self.graph_file(component), sess_options=options, providers=names)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(component, f"cannot be loaded: {error}") from error

    def graph_file(self, component: str) -> Path:
        """The component's graph for the precision and provider.

        Raises:
            EngineError: the repository has none of the precision.
        """
        spec = self._manifest.components[component]
        variant: VariantManifest | None = None
        if self._precision == "float16":
            variant = spec.variants.get("float16")
            if variant is None:
                raise EngineError(component, "has no float16 graph: export the repository again with --gpu-graphs")
        elif self._fused and self._wanted[0] == GRAPH_PROVIDER:
            variant = spec.variants.get("fused")
        return self._repository / component / (variant.file if variant else MODEL_FILE)

    @property
    def description(self) -> str:
        """'onnxruntime:', the execution provider in use, and the precision where it is not float32."""
        reduced = f":{self._precision}" if self._precision != "float32" else ""
        return f"onnxruntime:{self._provider}{reduced}"

    @property
    def concurrency(self) -> int:
        """One batch at a time on CPUs; two on an accelerator, so that one is prepared while the other computes."""
        return 1 if self._provider in HOST_PROVIDERS else 2

    @property
    def useful_batch(self) -> int | None:
        """See `service.engines.base.CPU_BATCH`; none on an accelerator."""
        return CPU_BATCH if self._provider in HOST_PROVIDERS else None

    def query_model(self, system: str) -> str | None:
        """See `service.engines.base.QueryEngine.query_model`: with CUDA graphs."""
        return self._bound.query_model(system) if self._bound else None

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Runs a component on one batch; see `service.engines.base.Engine.run`.

        Raises:
            EngineError: no such component or output; inputs or outputs of another shape or type than the
                manifest says; ONNX Runtime failed; or an output holds NaN or infinity.
        """
        known = self._bound.specs(component) if self._bound else None
        if known is None and component in self._sessions:
            spec = self._manifest.components[component]
            known = spec.inputs, spec.outputs
        if known is None:
            raise EngineError(component, "no such component")
        sizes: dict[str, int] = {}
        check_tensors(component, known[0], inputs, sizes)
        wanted = wanted_tensors(component, known[1], outputs)
        try:
            results = self._results(component, inputs, sizes, [tensor.name for tensor in wanted])
        except Exception as error:
            raise EngineError(component, f"{type(error).__name__}: {error}") from error
        check_tensors(component, wanted, results, sizes)
        check_finite(component, results)
        return results

    def _results(
        self, component: str, inputs: Tensors, sizes: Mapping[str, int], names: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
        if self._bound is not None and self._bound.takes(component, sizes):
            return self._bound.run(component, inputs, sizes, names)
        if self._bound is not None:
            return self._bound.run_plainly(component, inputs, names)
        return dict(zip(names, self._sessions[component].run(names, dict(inputs)), strict=True))

    def close(self) -> None:
        """Frees the sessions."""
        self._sessions.clear()
        if self._bound is not None:
            bound, self._bound = self._bound, None
            bound.close()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
