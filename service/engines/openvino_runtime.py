"""Runs an exported repository in this process, with OpenVINO: on Intel's CPUs and everybody else's.

ONNX Runtime has OpenVINO as a plug-in execution provider, too, but that one offers itself on Intel's CPUs only, while
the library behind both runs, and pays, on any x86-64 or ARM processor.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import openvino

from cape.manifest import MODEL_FILE, Manifest
from service.engines.base import CPU_BATCH, Tensors
from service.engines.tensors import check_finite, check_tensors, wanted_tensors
from service.errors import EngineError
from service.process.cpus import available_cpus

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]

HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}

BFLOAT16 = "BF16"
"""How OpenVINO lists a CPU that multiplies bfloat16 natively (AVX512-BF16 or AMX); others would emulate it, slower."""


ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables by which oneDNN, which computes for OpenVINO, is kept from newer instructions."""

WITHOUT_BFLOAT16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Values of `ISA_LIMITS` that leave no bfloat16 products."""


def multiplies_bfloat16(core: openvino.Core | None = None) -> bool:
    """Whether this CPU multiplies bfloat16 natively, and oneDNN may use it.

    OpenVINO reports what the CPU has, even if oneDNN is limited to older instructions;
    compiling for bfloat16 then fails.
    """
    if any(os.environ.get(name, "").upper() in WITHOUT_BFLOAT16 for name in ISA_LIMITS):
        return False
    return BFLOAT16 in (core or openvino.Core()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """One compiled model per component. Implements `service.engines.base.Engine`."""

    concurrency = 1
    """A run uses every CPU: a second one at the same time gains nothing."""

    useful_batch = CPU_BATCH

    def __init__(
        self, repository: Path, manifest: Manifest, threads: int | None = None, precision: Precision = "float32"
    ) -> None:
        """Loads every component.

        Args:
            repository: folder of an exported repository.
            manifest: its manifest.
            threads: threads of a run; None takes one per CPU that this process may use.
            precision: of matrix products; bfloat16 only where the CPU has it.

        Raises:
            EngineError: a graph cannot be loaded, or the CPU has no bfloat16.
        """
        self._manifest = manifest
        core = openvino.Core()
        if precision == "bfloat16" and not multiplies_bfloat16(core):
            raise EngineError("engine", "this CPU does not multiply bfloat16 (no AVX512-BF16, no AMX): use float32")
        self._precision = precision
        configuration = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads or available_cpus(),
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned threads were no faster here, and two servers on a machine would pin theirs to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        if precision == "float32" and multiplies_bfloat16(core):
            logger.info("this CPU multiplies bfloat16: --precision bfloat16 is faster; try `capeserve bench accuracy`")
        self._models: dict[str, openvino.CompiledModel] = {}
        for component in manifest.components:
            try:
                self._models[component] = core.compile_model(
                    core.read_model(repository / component / MODEL_FILE), "CPU", configuration
                )
            except Exception as error:
                raise EngineError(component, f"cannot be loaded: {error}") from error
        self._requests = threading.local()

    @property
    def description(self) -> str:
        """'openvino:' and the precision of products."""
        return f"openvino:{self._precision}"

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Runs a component on one batch; see `service.engines.base.Engine.run`.

        Raises:
            EngineError: no such component or output; inputs or outputs of another shape or type than the manifest
                says; OpenVINO failed; or an output holds NaN or infinity.
        """
        if component not in self._models:
            raise EngineError(component, "no such component")
        spec = self._manifest.components[component]
        sizes: dict[str, int] = {}
        check_tensors(component, spec.inputs, inputs, sizes)
        wanted = wanted_tensors(component, spec.outputs, outputs)
        request = self._request(component)
        try:
            # Without a copy: a request reads the arrays where they are.
            request.infer(dict(inputs), share_inputs=True, share_outputs=True)
            # With one: the next run of this thread writes over what this one has answered.
            results = {tensor.name: np.array(request.get_tensor(tensor.name).data) for tensor in wanted}
        except Exception as error:
            raise EngineError(component, f"{type(error).__name__}: {error}") from error
        check_tensors(component, wanted, results, sizes)
        check_finite(component, results)
        return results

    def close(self) -> None:
        """Frees the models."""
        self._models.clear()
        self._requests = threading.local()

    def _request(self, component: str) -> openvino.InferRequest:
        """An inference request of this thread: a request runs one batch at a time."""
        kept: dict[str, openvino.InferRequest] | None = getattr(self._requests, "kept", None)
        if kept is None:
            kept = self._requests.kept = {}
        if component not in kept:
            kept[component] = self._models[component].create_infer_request()
        return kept[component]
