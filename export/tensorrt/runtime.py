"""Runs engines on the card in this machine, to compare them with PyTorch after a build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.graph import ExportError


class EngineRuntime:
    """Engines by role; takes the place of `export.parity.Runtime`.

    Args:
        bindings: the module of an edition, see `load_bindings`.
        plans: engine of each role.

    Raises:
        ExportError: there is no CUDA device that torch can use, or an engine is not for it.
    """

    def __init__(self, bindings: Any, plans: Mapping[str, Path]) -> None:
        if not torch.cuda.is_available():
            raise ExportError("engines run on a CUDA device; torch finds none here")
        self._runtime = bindings.Runtime(bindings.Logger(bindings.ILogger.ERROR))
        self._engines = {}
        for role, path in plans.items():
            engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if engine is None:
                raise ExportError(f"{path}: not an engine for {torch.cuda.get_device_name()}")
            self._engines[role] = engine
        self._contexts = {role: engine.create_execution_context() for role, engine in self._engines.items()}
        self._input = bindings.TensorIOMode.INPUT

    def run(self, role: str, inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs one component on a batch; outputs by name.

        Raises:
            ExportError: no profile of the engine takes these shapes.
        """
        engine, context = self._engines[role], self._contexts[role]
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        taken = [name for name in names if engine.get_tensor_mode(name) == self._input]
        stream = torch.cuda.current_stream().cuda_stream
        context.set_optimization_profile_async(
            self._profile(role, {name: inputs[name].shape for name in taken}), stream
        )
        tensors = {name: torch.from_numpy(np.ascontiguousarray(inputs[name])).cuda() for name in taken}
        for name, tensor in tensors.items():
            context.set_input_shape(name, tuple(tensor.shape))
        for name in names:
            if name not in tensors:
                # Outputs are float32 in every component.
                tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=torch.float32, device="cuda")
            context.set_tensor_address(name, tensors[name].data_ptr())
        if not context.execute_async_v3(stream):
            raise ExportError(f"{role}: the engine failed")
        torch.cuda.synchronize()
        return {name: tensors[name].cpu().numpy() for name in names if name not in taken}

    def _profile(self, role: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
        engine = self._engines[role]
        for index in range(engine.num_optimization_profiles):
            limits = {name: engine.get_tensor_profile_shape(name, index) for name in shapes}
            if all(
                low <= size <= high
                for name, shape in shapes.items()
                for low, size, high in zip(limits[name][0], shape, limits[name][2], strict=True)
            ):
                return index
        raise ExportError(f"{role}: no profile takes {dict(shapes)}")
