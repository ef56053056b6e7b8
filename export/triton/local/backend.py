"""Triton's `onnxruntime` backend, in Python: what `<backends>/onnxruntime/model.py` holds on a development machine.

The server that comes in a wheel has only the Python backend. This file, run by it for every model that says
`backend: "onnxruntime"`, honours the same configuration as NVIDIA's backend does: threads, execution accelerators,
device, graph optimisation level. It runs in an environment of its own and imports nothing of capeserve.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import triton_python_backend_utils as triton

ACCELERATORS = {
    "openvino": "OpenVINOExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}

LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""What `optimization.graph.level` means to NVIDIA's backend; without it, everything is on."""


class TritonPythonModel:
    """One model of the repository; Triton looks for this name."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the graph of the model's version.

        Raises:
            TritonModelException: no such graph, a graph that ONNX Runtime cannot read, or an accelerator that is
                not installed; Triton reports it with the model's name.
        """
        configuration = json.loads(args["model_config"])
        folder = Path(args["model_repository"])
        path = folder / args["model_version"] / (configuration.get("default_model_filename") or "model.onnx")
        if not path.is_file():
            raise triton.TritonModelException(f"{path}: missing")
        providers = _providers(configuration, args)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=_options(configuration), providers=providers
            )
        except Exception as error:
            raise triton.TritonModelException(f"{path}: cannot be loaded: {error}") from None
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        # ONNX Runtime goes on without a provider whose libraries it cannot load: a "GPU" that is a CPU.
        if wanted not in self._session.get_providers():
            raise triton.TritonModelException(f"{path}: {wanted} does not load; the log of ONNX Runtime says why")
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers the requests that Triton's batcher hands over at once, those of equal shapes in one run.

        Returns:
            A response per request, in their order.
        """
        responses: list[Any] = [None] * len(requests)
        for group in _groups(requests, self._inputs, responses):
            try:
                self._run(group, responses)
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                for index, _, _ in group:
                    responses[index] = triton.InferenceResponse(error=triton.TritonError(text))
        return responses

    def _run(self, group: Sequence[_Item], responses: list[Any]) -> None:
        # In the graph's order, once each, whoever of the group wants it.
        wanted = [name for name in self._outputs if any(name in outputs for _, _, outputs in group)]
        feed = {name: np.concatenate([arrays[name] for _, arrays, _ in group]) for name in self._inputs}
        results = dict(zip(wanted, self._session.run(wanted, feed), strict=True))
        start = 0
        for index, arrays, outputs in group:
            stop = start + len(arrays[self._inputs[0]])
            responses[index] = triton.InferenceResponse(
                # Contiguous: the stub copies the memory as it lies.
                [triton.Tensor(name, np.ascontiguousarray(results[name][start:stop])) for name in outputs]
            )
            start = stop


_Item = tuple[int, Mapping[str, npt.NDArray[Any]], Sequence[str]]
"""Place of a request among those handed over, its inputs, and the outputs that it asks for."""


def _groups(requests: Sequence[Any], names: Sequence[str], responses: list[Any]) -> Iterator[list[_Item]]:
    """Requests that can share a run; those whose caller has left are answered on the way."""
    groups: dict[Hashable, list[_Item]] = {}
    for index, request in enumerate(requests):
        if request.is_cancelled():
            error = triton.TritonError("the caller has left", triton.TritonError.CANCELLED)
            responses[index] = triton.InferenceResponse(error=error)
            continue
        arrays = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in names}
        batch_key = tuple((array.shape[1:], array.dtype.str) for array in arrays.values())
        groups.setdefault(batch_key, []).append((index, arrays, request.requested_output_names()))
    yield from groups.values()


def _options(configuration: Mapping[str, Any]) -> onnxruntime.SessionOptions:
    parameters = {key: value["string_value"] for key, value in configuration.get("parameters", {}).items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    if parameters.get("execution_mode") == "1":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    level = int(configuration.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = LEVELS.get(level, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    # Every model has threads of its own here: those that spin after a run take the CPUs from the next model's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(configuration: Mapping[str, Any], args: Mapping[str, str]) -> list[Any]:
    """ONNX Runtime's execution providers, best first."""
    gpu = args["model_instance_kind"] == "GPU"
    chosen = configuration.get("optimization", {}).get("execution_accelerators", {})
    accelerators = chosen.get("gpu_execution_accelerator" if gpu else "cpu_execution_accelerator", [])
    installed = onnxruntime.get_available_providers()
    providers: list[Any] = []
    for accelerator in accelerators:
        name = ACCELERATORS.get(accelerator["name"], accelerator["name"])
        if name not in installed:
            raise triton.TritonModelException(f"no {accelerator['name']} here; installed are {', '.join(installed)}")
        providers.append((name, dict(accelerator.get("parameters", {}))))
    device = {"device_id": args["model_instance_device_id"]}
    if gpu and "CUDAExecutionProvider" not in [name for name, _ in providers]:
        providers.append(("CUDAExecutionProvider", device))
    if gpu and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's libraries lie in packages beside it, where no linker looks
    return [*providers, "CPUExecutionProvider"]
