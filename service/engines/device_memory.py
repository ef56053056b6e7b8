"""Memory that bound models read and write: a GPU's, or the host's.

A buffer has one address on the device and one copy on the host for each batch in flight. The host copies on a GPU are
pinned, so that transfers run at full speed and do not block.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class DeviceError(RuntimeError):
    """A call to the device failed; the message names the call and the error."""


class DeviceMemory(Protocol):
    """Allocates device and host memory, and moves data between them in the order of the calls."""

    @property
    def device(self) -> str:
        """ONNX Runtime's name for it: 'cuda' or 'cpu'."""

    @property
    def stream(self) -> int | None:
        """Address of the CUDA stream on which everything is ordered; None on the host."""

    def allocate(self, size: int) -> int:
        """Allocates `size` zeroed bytes on the device and returns the address."""

    def host_array(self, size: int) -> Bytes:
        """Allocates `size` bytes on the host."""

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Queues a copy of a contiguous host array to a device address."""

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """Queues a copy from a device address to a contiguous host array."""

    def mark(self) -> Callable[[], None]:
        """Returns a function that blocks until everything queued so far is done."""

    def close(self) -> None:
        """Frees everything."""


class HostMemory:
    """Implements `DeviceMemory` in host memory, where copies are done at once."""

    device = "cpu"
    stream = None

    def __init__(self) -> None:
        self._kept: list[Bytes] = []

    def allocate(self, size: int) -> int:
        """See `DeviceMemory.allocate`."""
        self._kept.append(np.zeros(size, np.uint8))
        return int(self._kept[-1].ctypes.data)

    def host_array(self, size: int) -> Bytes:
        """See `DeviceMemory.host_array`."""
        return np.zeros(size, np.uint8)

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """See `DeviceMemory.upload`."""
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """See `DeviceMemory.download`."""
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def mark(self) -> Callable[[], None]:
        """See `DeviceMemory.mark`: nothing is ever pending."""
        return lambda: None

    def close(self) -> None:
        """See `DeviceMemory.close`."""
        self._kept.clear()


_NON_BLOCKING_STREAM = 1
_EVENT_WITHOUT_TIMING = 2
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2


class CudaMemory:
    """Implements `DeviceMemory` on the first visible GPU, through the CUDA runtime that ONNX Runtime has loaded."""

    device = "cuda"

    def __init__(self) -> None:
        """Creates a stream.

        Raises:
            DeviceError: no CUDA runtime is loaded, or it fails.
        """
        self._runtime = ctypes.CDLL(_loaded_library("libcudart.so"))
        self._addresses: list[ctypes.c_void_p] = []
        self._pinned: list[ctypes.c_void_p] = []
        self._events: list[ctypes.c_void_p] = []
        self._lock = threading.Lock()
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING_STREAM))
        self._stream = stream

    @property
    def stream(self) -> int:
        """See `DeviceMemory.stream`."""
        return int(self._stream.value or 0)

    def allocate(self, size: int) -> int:
        """See `DeviceMemory.allocate`."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        self._addresses.append(address)
        self._call("cudaMemsetAsync", address, ctypes.c_int(0), ctypes.c_size_t(size), self._stream)
        return int(address.value or 0)

    def host_array(self, size: int) -> Bytes:
        """See `DeviceMemory.host_array`: pinned."""
        address = ctypes.c_void_p()
        self._call("cudaHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(0))
        self._pinned.append(address)
        array: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address.value or 0)))
        array[:] = 0
        return array

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """See `DeviceMemory.upload`."""
        self._copy(address, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE)

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """See `DeviceMemory.download`."""
        self._copy(array.ctypes.data, address, array.nbytes, _DEVICE_TO_HOST)

    def mark(self) -> Callable[[], None]:
        """See `DeviceMemory.mark`."""
        with self._lock:
            event = self._events.pop() if self._events else None
        if event is None:
            event = ctypes.c_void_p()
            self._call("cudaEventCreateWithFlags", ctypes.byref(event), ctypes.c_uint(_EVENT_WITHOUT_TIMING))
        self._call("cudaEventRecord", event, self._stream)

        def wait() -> None:
            self._call("cudaEventSynchronize", event)
            with self._lock:
                self._events.append(event)

        return wait

    def close(self) -> None:
        """See `DeviceMemory.close`."""
        self._call("cudaStreamSynchronize", self._stream)
        for event in self._events:
            self._call("cudaEventDestroy", event)
        for address in self._addresses:
            self._call("cudaFree", address)
        for address in self._pinned:
            self._call("cudaFreeHost", address)
        self._events, self._addresses, self._pinned = [], [], []
        self._call("cudaStreamDestroy", self._stream)

    def _copy(self, target: int, source: int, size: int, direction: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(direction),
            self._stream,
        )

    def _call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the runtime.

        Raises:
            DeviceError: it returned an error.
        """
        status = getattr(self._runtime, name)(*arguments)
        if status:
            explain = self._runtime.cudaGetErrorString
            explain.restype = ctypes.c_char_p
            raise DeviceError(f"{name}: {(explain(status) or b'').decode()} ({status})")


def _loaded_library(name: str) -> str:
    """Path of a shared library that this process has loaded: another copy would have a state of its own.

    Raises:
        DeviceError: it is not loaded.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123 (no regular file)
        for line in maps:
            path = line.rstrip("\n").partition("/")
            if path[1] and path[2].rpartition("/")[2].startswith(name):
                return f"/{path[2]}"
    raise DeviceError(f"{name} is not loaded")
