"""Libraries of NVIDIA's that ONNX Runtime finds only where they are loaded already."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from contextlib import suppress

import onnxruntime

ON_CUDA = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"})
"""Execution providers that need CUDA's libraries."""


def load_libraries(providers: Collection[str]) -> None:
    """Loads what execution providers will look for, from the Python packages that hold it.

    `onnxruntime-gpu[cuda,cudnn]` brings CUDA and cuDNN, and `tensorrt` its own libraries, in folders of site-packages
    where no linker looks: without this the provider does not load, and ONNX Runtime goes on with the CPU. What lies
    where the linker looks, as in NVIDIA's containers, is found as ever; what is nowhere is ONNX Runtime's to report.

    Args:
        providers: names of those about to be used.
    """
    if ON_CUDA.isdisjoint(providers):
        return
    onnxruntime.preload_dlls()
    if "TensorrtExecutionProvider" in providers:
        with suppress(ImportError, OSError):
            importlib.import_module("tensorrt")
