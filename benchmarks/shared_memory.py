"""What Triton's system shared memory saves where client and server are on one host: `capeserve bench shared-memory`.

The same tensors travel in the messages of a request and its answer, as `service.engines.triton` sends them, and in a
region of /dev/shm that both sides map; turn by turn, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.harness.tables import ReportTable, milliseconds
from cape.manifest import QUERY_SUFFIX, Manifest, TensorSpec
from service.engines.triton_messages import DATA_TYPES, VERSION, TritonModel, triton_models
from service.telemetry.performance import Percentiles

Arrays = Mapping[str, npt.NDArray[Any]]

OUTPUTS = {"pose_decoder": ("keypoints", "scores")}
"""What a query asks a model for, where that is not all."""

CHANNEL_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


@dataclass(frozen=True, slots=True)
class Transport:
    """One model at one batch size.

    Attributes:
        model: Triton's name of it.
        batch: rows of a request.
        sent, received: bytes of its tensors.
        messages, shared: seconds of a request, its tensors in messages and in shared memory.
        messages_cpu, shared_cpu: processor seconds of the client, per request.
    """

    model: str
    batch: int
    sent: int
    received: int
    messages: Percentiles
    shared: Percentiles
    messages_cpu: float
    shared_cpu: float


def measure_transports(
    target: str,
    manifest: Manifest,
    system: str,
    *,
    keypoints: int,
    batches: Sequence[int],
    runs: int,
    step: Callable[[list[Transport]], None] = lambda results: None,
) -> list[Transport]:
    """Measures backbone, decoder and the ensemble of both.

    Args:
        target: 'host:port' of the gRPC of a Triton on this host that serves the manifest.
        manifest: of what it serves.
        system: a system of the manifest.
        keypoints: K of the support.
        batches: rows of a request; sizes that a model does not take are left out.
        runs: measured requests of each kind.
        step: told the results so far, after each.

    Raises:
        grpc.RpcError: Triton does not answer, or does not share this host's memory.
        ValueError: the two ways give different answers.
    """
    found: list[Transport] = []
    components = manifest.systems[system].components
    query = f"{system}{QUERY_SUFFIX}"
    limits = {name: manifest.components[name].max_batch_size for name in components.values()}
    limits[query] = min(limits[components["image_backbone"]], limits[components["pose_decoder"]])
    with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for name in (components["image_backbone"], components["pose_decoder"], query):
            model = triton_models(manifest)[name]
            outputs = OUTPUTS["pose_decoder"] if name != components["image_backbone"] else ("features",)
            for batch in (size for size in batches if size <= limits[name]):
                sizes = {"B": batch, "K": manifest.bucket(keypoints)}
                found.append(_measure(stub, name, model, outputs, sizes, runs))
                step(found)
    return found


def tables(results: Sequence[Transport]) -> tuple[ReportTable, ...]:
    """One table."""
    header = ("model", "batch", "sent, KiB", "received", "messages p50, ms", "p95", "shared memory p50", "p95")
    rows = tuple(
        (
            one.model,
            str(one.batch),
            f"{one.sent / 1024:.0f}",
            f"{one.received / 1024:.0f}",
            *(milliseconds(value) for value in (one.messages.p50, one.messages.p95, one.shared.p50, one.shared.p95)),
            f"{100 * (one.messages.p50 - one.shared.p50) / one.messages.p50:+.1f}",
            milliseconds(one.messages_cpu),
            milliseconds(one.shared_cpu),
        )
        for one in results
    )
    return (
        ReportTable(
            "A request of one caller to a Triton on the same host",
            (*header, "saved, %", "client CPU, messages", "client CPU, shared"),
            rows,
            (
                "Turn by turn, one caller: what the transport itself costs, beside the model's run.",
                "Client CPU: processor time of the calling process per request, copies included.",
            ),
        ),
    )


def _measure(
    stub: Any, name: str, model: TritonModel, outputs: Sequence[str], sizes: Mapping[str, int], runs: int
) -> Transport:
    inputs = {spec.name: _example(spec, _shape(spec, sizes)) for spec in model.inputs}
    answers = {spec.name: (spec, _shape(spec, sizes)) for spec in model.outputs if spec.name in outputs}
    sent = sum(array.nbytes for array in inputs.values())
    received = sum(_bytes(spec, shape) for spec, shape in answers.values())

    def by_message() -> dict[str, npt.NDArray[Any]]:
        request = _request(name, inputs, outputs)
        request.raw_input_contents.extend(array.tobytes() for array in inputs.values())
        answer = stub.ModelInfer(request)
        contents = zip(answer.outputs, answer.raw_output_contents, strict=True)
        return {
            output.name: np.frombuffer(content, answers[output.name][0].dtype).reshape(tuple(output.shape))
            for output, content in contents
        }

    with _region(stub, sent + received) as (region, memory):

        def by_memory() -> dict[str, npt.NDArray[Any]]:
            request = _request(name, inputs, outputs)
            start = 0
            for tensor, array in zip(request.inputs, inputs.values(), strict=True):
                np.frombuffer(memory, array.dtype, array.size, start)[:] = array.ravel()
                start = _placed(tensor, region, start, array.nbytes)
            places = {}
            for tensor in request.outputs:
                places[tensor.name] = start
                start = _placed(tensor, region, start, _bytes(*answers[tensor.name]))
            stub.ModelInfer(request)
            # Copied: the next request overwrites the region.
            return {
                output: np.frombuffer(memory, spec.dtype, int(np.prod(shape)), places[output]).reshape(shape).copy()
                for output, (spec, shape) in answers.items()
            }

        for output, array in by_message().items():
            if not np.allclose(array, by_memory()[output], atol=1e-5):
                raise ValueError(f"{name}: {output} is another in shared memory")
        ways = (by_message, by_memory)
        seconds: dict[int, list[float]] = {0: [], 1: []}
        cpu = [0.0, 0.0]
        for run in range(runs + 3):
            for way in (0, 1) if run % 2 else (1, 0):
                began, worked = time.perf_counter(), time.process_time()
                ways[way]()
                if run >= 3:
                    seconds[way].append(time.perf_counter() - began)
                    cpu[way] += (time.process_time() - worked) / runs
    return Transport(
        name, sizes["B"], sent, received, Percentiles.of(seconds[0]), Percentiles.of(seconds[1]), cpu[0], cpu[1]
    )


@contextlib.contextmanager
def _region(stub: Any, size: int) -> Iterator[tuple[str, mmap.mmap]]:
    """A region of shared memory that Triton has mapped too: its name there, and its memory here."""
    name = f"capeserve-bench-{os.getpid()}"
    path = Path("/dev/shm") / name
    with path.open("x+b") as file:
        try:
            file.truncate(size)
            memory = mmap.mmap(file.fileno(), size)
            stub.SystemSharedMemoryRegister(
                service_pb2.SystemSharedMemoryRegisterRequest(name=name, key=f"/{name}", offset=0, byte_size=size)
            )
            try:
                yield name, memory
            finally:
                _unregister(stub, name)
        finally:
            path.unlink()


def _unregister(stub: Any, name: str, seconds: float = 5.0) -> None:
    """Triton answers a request a moment before it lets go of the request's memory, and refuses until then."""
    end = time.monotonic() + seconds
    while True:
        try:
            stub.SystemSharedMemoryUnregister(service_pb2.SystemSharedMemoryUnregisterRequest(name=name))
            return
        except grpc.RpcError as error:
            if "currently in use" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _request(name: str, inputs: Arrays, outputs: Sequence[str]) -> Any:
    request = service_pb2.ModelInferRequest(model_name=name, model_version=VERSION)
    for key, array in inputs.items():
        request.inputs.add(name=key, datatype=DATA_TYPES[array.dtype.name], shape=array.shape)
    for output in outputs:
        request.outputs.add(name=output)
    return request


def _placed(tensor: Any, region: str, start: int, size: int) -> int:
    """Says in a request where a tensor lies; returns where the next one may."""
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_offset"].int64_param = start
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    return start + size


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


def _bytes(spec: TensorSpec, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(spec.dtype).itemsize


def _example(spec: TensorSpec, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    random = np.random.default_rng(0)
    if spec.dtype == "uint8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    if spec.name in ("mask", "adjacency"):
        return np.ones(shape, np.float32)
    return random.standard_normal(shape, dtype=np.float32)
