"""Models whose tensors stay on the device: fixed buffers, and on a GPU one CUDA graph for each shape.

A component run this way reads its inputs from and writes its outputs to buffers that never move, so nothing is
allocated during a run, and a GPU can replay the whole run as one captured graph instead of launching each kernel. A
query runs image backbone and pose decoder one after the other on the same stream; the features stay on the device.

Batches are padded to a few sizes. Which of them a batch is cut into is decided by run times measured at warm-up.
"""

from __future__ import annotations

import itertools
import logging
import queue
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from cape.manifest import QUERY_SUFFIX, Manifest, Role, TensorSpec
from service.engines.bound_component import Arrays, BoundComponent, CaptureError, DeviceTensor, _key, shape_of
from service.engines.device_memory import Bytes, DeviceError, DeviceMemory

logger = logging.getLogger(__name__)

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes that graphs are captured for."""

TOKENS = (8, 16)
"""Text lengths that graphs are captured for: a name, padded as the service pads. Longer texts run without."""

TIMED_RUNS = 5
"""Runs from which the time of a batch size is judged at warm-up."""

AGREEMENT = 0.01
"""Largest difference of keypoints, as a fraction of the crop, between a query with and without graphs."""

QUERY_ROLES: tuple[Role, ...] = ("image_backbone", "pose_decoder")
"""What a query runs, in order."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """Components that run one after the other.

    Attributes:
        components: in order; outputs of one are inputs of the next where names are equal.
        inputs, outputs: of the whole.
        captured: sizes of the dynamic axes that graphs are captured for; every combination.
    """

    components: tuple[BoundComponent, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    captured: Mapping[str, tuple[int, ...]]

    def tensor(self, name: str) -> DeviceTensor:
        return next(one.tensors[name] for one in self.components if name in one.tensors)


class BoundModels:
    """A repository's components on fixed buffers, and each system's query: backbone and decoder at once.

    May be called from any thread. Up to `in_flight` batches are worked on: one is copied while the device computes.
    """

    def __init__(
        self,
        sessions: Mapping[str, onnxruntime.InferenceSession],
        manifest: Manifest,
        memory: DeviceMemory,
        *,
        captured: Collection[str] = (),
        batches: Sequence[int] = BATCHES,
        in_flight: int = 2,
    ) -> None:
        """Allocates all buffers; `warm_up` captures the graphs.

        Args:
            sessions: by component; components of language models are ignored.
            manifest: of the repository.
            memory: where buffers are allocated.
            captured: components whose runs are captured as graphs.
            batches: batch sizes to capture, ascending.
            in_flight: host copies of every buffer.

        Raises:
            DeviceError: an allocation failed.
        """
        self._manifest, self._memory, self._batches = manifest, memory, tuple(batches)
        # ONNX Runtime keeps captured graphs for the thread that captured them: one thread makes all runs.
        self._runs = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._bound: dict[str, BoundComponent] = {}
        self._chains: dict[str, _Chain] = {}
        for name, system in manifest.support_systems.items():
            for role, component in system.components.items():
                if component not in self._bound:
                    self._bind(
                        role, component, system.components["image_backbone"], sessions[component], component in captured
                    )
            first = self._chains[system.components["image_backbone"]]
            last = self._chains[system.components["pose_decoder"]]
            self._chains[f"{name}{QUERY_SUFFIX}"] = _Chain(
                first.components + last.components,
                (*first.inputs, *(spec for spec in last.inputs if spec.name != "features")),
                last.outputs,
                {**last.captured, "B": tuple(b for b in last.captured["B"] if b in first.captured["B"])},
            )
        self._seconds: dict[tuple[str, tuple[tuple[str, int], ...]], dict[int, float]] = {}
        self._plans: dict[tuple[str, tuple[tuple[str, int], ...], int], list[int]] = {}
        largest: dict[str, int] = {}
        for chain in self._chains.values():
            for spec in (*chain.inputs, *chain.outputs):
                largest[spec.name] = max(largest.get(spec.name, 0), chain.tensor(spec.name).size)
        self._slots: queue.SimpleQueue[dict[str, Bytes]] = queue.SimpleQueue()
        for _ in range(in_flight):
            self._slots.put({name: memory.host_array(size) for name, size in largest.items()})

    def _bind(
        self, role: Role, component: str, backbone: str, session: onnxruntime.InferenceSession, graphs: bool
    ) -> None:
        spec = self._manifest.components[component]
        most = spec.max_batch_size if role != "support_fusion" else 1
        batches = tuple(batch for batch in self._batches if batch <= most) or (1,)
        axes = {size for tensor in spec.inputs for size in tensor.shape if isinstance(size, str)}
        buckets = (1,) if role == "text_encoder" else self._manifest.keypoint_buckets
        captured = {"B": batches, "K": buckets, "T": TOKENS, "S": (1,)}
        captured = {axis: sizes for axis, sizes in captured.items() if axis in axes}
        # A decoder reads the features where its backbone has written them.
        shared = {"features": self._bound[backbone].tensors["features"]} if role == "pose_decoder" else {}
        bound = BoundComponent(
            session,
            spec,
            self._memory,
            {axis: max(sizes) for axis, sizes in captured.items()},
            graphs=graphs,
            shared=shared,
        )
        self._bound[component] = bound
        self._chains[component] = _Chain((bound,), spec.inputs, spec.outputs, captured)

    def query_model(self, system: str) -> str | None:
        """Name of the system's query for `run`; None for a system that has none."""
        name = f"{system}{QUERY_SUFFIX}"
        return name if name in self._chains else None

    def specs(self, name: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]] | None:
        """Inputs and outputs of a component or query; None if it is not here."""
        chain = self._chains.get(name)
        return None if chain is None else (chain.inputs, chain.outputs)

    def takes(self, name: str, sizes: Mapping[str, int]) -> bool:
        """Whether a component or query is here, and its buffers hold single items of these sizes."""
        chain = self._chains.get(name)
        return chain is not None and all(one.fits({**sizes, "B": 1}) for one in chain.components)

    def warm_up(self) -> None:
        """Captures all graphs and times them.

        Raises:
            CaptureError: a component cannot be captured.
            DeviceError: the device failed.
        """
        for name, bound in self._bound.items():
            for sizes in _combinations(self._chains[name].captured):
                try:
                    self._runs.submit(bound.capture, sizes).result()
                except Exception as error:
                    raise CaptureError(name, str(error)) from error
        self._memory.mark()()
        for system in self._manifest.support_systems:
            self._check(system)
        for name, chain in self._chains.items():
            for others in _combinations({axis: sizes for axis, sizes in chain.captured.items() if axis != "B"}):
                times = self._seconds[name, _key(others)] = {}
                for batch in chain.captured["B"]:
                    sizes = {**others, "B": batch}
                    inputs = {spec.name: np.ones(shape_of(spec, sizes), spec.dtype) for spec in chain.inputs}
                    outputs = [spec.name for spec in chain.outputs]
                    times[batch] = min(self._timed(name, inputs, sizes, outputs) for _ in range(TIMED_RUNS))
                logger.debug("%s %s: %s", name, others, times)

    def _check(self, system: str) -> None:
        """Compares a query on fixed buffers with the same components run the ordinary way.

        Raises:
            DeviceError: they disagree.
        """
        chain = self._chains[f"{system}{QUERY_SUFFIX}"]
        sizes = {"B": chain.captured["B"][-1] // 2 or 1, "K": chain.captured["K"][0]}
        random = np.random.default_rng(0)
        inputs: dict[str, npt.NDArray[Any]] = {}
        for spec in chain.inputs:
            shape = shape_of(spec, sizes)
            if spec.dtype == "uint8":
                inputs[spec.name] = random.integers(0, 256, shape, dtype=np.uint8)
            elif spec.name == "support_tokens":
                inputs[spec.name] = random.standard_normal(shape).astype(spec.dtype)
            else:
                inputs[spec.name] = np.ones(shape, spec.dtype)
        found = self._run_part(chain, inputs, sizes, sizes["B"], ["keypoints"])["keypoints"]
        known: dict[str, npt.NDArray[Any]] = dict(inputs)
        for component in chain.components:
            known |= self._runs.submit(component.run_plainly, known).result()
        difference = float(np.median(np.abs(found - known["keypoints"])))
        if not difference <= AGREEMENT:
            raise DeviceError(f"{system}: keypoints on fixed buffers differ by {difference:.3f} of the crop")

    def _timed(self, name: str, inputs: Arrays, sizes: Mapping[str, int], outputs: Sequence[str]) -> float:
        started = time.perf_counter()
        self._run_part(self._chains[name], inputs, sizes, sizes["B"], outputs)
        return time.perf_counter() - started

    def run(self, name: str, inputs: Arrays, sizes: Mapping[str, int], outputs: Sequence[str]) -> dict[str, Any]:
        """Runs a component or a query on one batch of any size.

        Args:
            name: a component or what `query_model` returns; `takes` says whether it is here.
            inputs: arrays by name, batched along the first axis.
            sizes: of the dynamic axes.
            outputs: names of the wanted outputs.

        Raises:
            DeviceError: the device failed.
        """
        chain = self._chains[name]
        others = {axis: size for axis, size in sizes.items() if axis != "B"}
        parts: list[dict[str, Any]] = []
        start = 0
        for batch in self._plan(name, _key(others), sizes["B"]):
            count = min(batch, sizes["B"] - start)
            part = {key: array[start : start + count] for key, array in inputs.items()}
            parts.append(self._run_part(chain, part, {**others, "B": batch}, count, outputs))
            start += count
        if len(parts) == 1:
            return parts[0]
        return {output: np.concatenate([part[output] for part in parts]) for output in outputs}

    def run_plainly(self, component: str, inputs: Arrays, outputs: Sequence[str]) -> dict[str, Any]:
        """Runs a component on inputs that its buffers do not hold; see `run`."""
        return self._runs.submit(self._bound[component].run_plainly, inputs, outputs).result()

    def _plan(self, name: str, others: tuple[tuple[str, int], ...], items: int) -> list[int]:
        """`best_parts` for a batch, computed once."""
        key = name, others, items
        if key not in self._plans:
            # Sizes that were not timed, such as an unusual number of keypoints: the smallest batch that holds all.
            times = self._seconds.get((name, others)) or {size: 1.0 + size for size in self._chains[name].captured["B"]}
            self._plans[key] = best_parts(items, times)
        return self._plans[key]

    def _run_part(
        self, chain: _Chain, inputs: Arrays, sizes: Mapping[str, int], count: int, outputs: Sequence[str]
    ) -> dict[str, Any]:
        """Runs `count` batch items, padded to a batch of `sizes`."""
        slot = self._slots.get()
        try:
            sent = []
            for spec in chain.inputs:
                host = _view(slot[spec.name], spec, {**sizes, "B": count})
                np.copyto(host, inputs[spec.name])
                sent.append((chain.tensor(spec.name).address, host))
            wanted = {spec.name: spec for spec in chain.outputs if spec.name in outputs}
            received = {key: _view(slot[key], spec, {**sizes, "B": count}) for key, spec in wanted.items()}

            def queue_up() -> Callable[[], None]:
                for address, host in sent:
                    self._memory.upload(address, host)
                for component in chain.components:
                    component.run(sizes)
                for key, host in received.items():
                    self._memory.download(host, chain.tensor(key).address)
                return self._memory.mark()

            self._runs.submit(queue_up).result()()
            return {key: np.array(host) for key, host in received.items()}
        finally:
            self._slots.put(slot)

    def close(self) -> None:
        """Frees the buffers; nothing may run afterwards."""
        self._runs.shutdown()
        self._chains.clear()
        self._bound.clear()
        self._memory.close()


def best_parts(items: int, seconds: Mapping[int, float]) -> list[int]:
    """Batch sizes that serve so many items in the least time; the last may be padded.

    Args:
        items: at least 1.
        seconds: what a run of each batch size takes.

    Returns:
        Sizes, largest first, whose sum is at least `items`.
    """
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for count in range(1, items + 1):
        options = ((best[max(0, count - size)], size, taken) for size, taken in seconds.items())
        best.append(min((before[0] + taken, [size, *before[1]]) for before, size, taken in options))
    return sorted(best[items][1], reverse=True)


def _view(buffer: Bytes, spec: TensorSpec, sizes: Mapping[str, int]) -> npt.NDArray[Any]:
    """The start of a buffer as an array."""
    shape, dtype = shape_of(spec, sizes), np.dtype(spec.dtype)
    return buffer[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def _combinations(sizes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, int]]:
    for values in itertools.product(*sizes.values()):
        yield dict(zip(sizes, values, strict=True))
