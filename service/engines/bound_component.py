"""A component with fixed device buffers: bound, captured as a CUDA graph for each shape, and replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from cape.manifest import ComponentManifest, TensorSpec
from service.engines.device_memory import DeviceError, DeviceMemory

Arrays = Mapping[str, npt.NDArray[Any]]

NO_CAPTURE = "-1"
"""ONNX Runtime's `gpu_graph_id` of a run that neither captures nor replays a graph."""


class CaptureError(DeviceError):
    """A component's run cannot be captured as a CUDA graph.

    Attributes:
        component: its name.
    """

    def __init__(self, component: str, reason: str) -> None:
        super().__init__(reason)
        self.component = component


@dataclass(frozen=True, slots=True)
class DeviceTensor:
    """A buffer of a component's input or output.

    Attributes:
        spec: name, type and shape.
        address: on the device.
        size: bytes.
    """

    spec: TensorSpec
    address: int
    size: int


class BoundComponent:
    """A component whose inputs and outputs have fixed addresses.

    Attributes:
        largest: the largest size of each dynamic axis that the buffers hold.
        tensors: buffers by name, inputs and outputs.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        spec: ComponentManifest,
        memory: DeviceMemory,
        largest: Mapping[str, int],
        *,
        graphs: bool,
        shared: Mapping[str, DeviceTensor] | None = None,
    ) -> None:
        """Allocates the buffers.

        Args:
            session: runs the component; with `graphs`, created with `enable_cuda_graph`.
            spec: from the manifest.
            memory: where buffers are allocated.
            largest: see the attribute.
            graphs: capture the run of each shape that `capture` is called with.
            shared: inputs that are another component's outputs, by name.
        """
        self.largest = largest
        self._session, self._spec, self._memory, self._graphs = session, spec, memory, graphs
        self.tensors = dict(shared or {})
        for tensor in (*spec.inputs, *spec.outputs):
            if tensor.name not in self.tensors:
                size = prod(shape_of(tensor, largest)) * np.dtype(tensor.dtype).itemsize
                self.tensors[tensor.name] = DeviceTensor(tensor, memory.allocate(size), size)
        self._bindings: dict[tuple[tuple[str, int], ...], tuple[onnxruntime.IOBinding, onnxruntime.RunOptions]] = {}
        self._captured: set[tuple[tuple[str, int], ...]] = set()

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether the buffers hold tensors of these sizes."""
        return all(sizes[axis] <= largest for axis, largest in self.largest.items() if axis in sizes)

    def capture(self, sizes: Mapping[str, int]) -> None:
        """Captures the run of a shape, so that later runs replay it; without `graphs`, runs it once."""
        key = self._key(sizes)
        options = onnxruntime.RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(len(self._captured) + 1))
        binding = self._bound(sizes)
        self._session.run_with_iobinding(binding, options)
        replay = _unsynchronised()
        if self._graphs:
            replay.add_run_config_entry("gpu_graph_id", str(len(self._captured) + 1))
        self._captured.add(key)
        self._bindings[key] = binding, replay

    def run(self, sizes: Mapping[str, int]) -> None:
        """Queues a run on what the input buffers hold."""
        key = self._key(sizes)
        if key not in self._bindings:
            options = _unsynchronised()
            if self._graphs:
                options.add_run_config_entry("gpu_graph_id", NO_CAPTURE)
            self._bindings[key] = self._bound(sizes), options
        binding, options = self._bindings[key]
        self._session.run_with_iobinding(binding, options)

    def run_plainly(self, arrays: Arrays, outputs: Sequence[str] = ()) -> dict[str, npt.NDArray[Any]]:
        """Runs the session on host arrays, without the buffers and without graphs.

        Args:
            arrays: holds the component's inputs by name, and may hold others.
            outputs: names of the wanted outputs; none: all.
        """
        options = onnxruntime.RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", NO_CAPTURE)
        names = list(outputs) or [spec.name for spec in self._spec.outputs]
        inputs = {spec.name: arrays[spec.name] for spec in self._spec.inputs}
        return dict(zip(names, self._session.run(names, inputs, options), strict=True))

    def _key(self, sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
        return tuple((axis, sizes[axis]) for axis in self.largest)

    def _bound(self, sizes: Mapping[str, int]) -> onnxruntime.IOBinding:
        binding = self._session.io_binding()
        for specs, bind in ((self._spec.inputs, binding.bind_input), (self._spec.outputs, binding.bind_output)):
            for spec in specs:
                shape, tensor = shape_of(spec, sizes), self.tensors[spec.name]
                bind(spec.name, self._memory.device, 0, np.dtype(spec.dtype), shape, tensor.address)
        return binding


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    """A tensor's shape, given the sizes of its dynamic axes."""
    return [sizes[size] if isinstance(size, str) else size for size in spec.shape]


def _key(sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(sizes.items()))


def _unsynchronised() -> onnxruntime.RunOptions:
    """Options of a run that returns once it is queued; on a CPU it is then done."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options
