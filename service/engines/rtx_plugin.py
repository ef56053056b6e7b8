"""TensorRT for RTX as a plug-in of ONNX Runtime, out of the Python package that holds it."""

from __future__ import annotations

import functools
import importlib
import importlib.util

import onnxruntime

PROVIDER = "NvTensorRTRTXExecutionProvider"
PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"


class PlugInError(RuntimeError):
    """The plug-in is not installed, does not load, or finds no card; says which."""


def is_installed() -> bool:
    """Whether the package is there; whether its library loads is another question."""
    return importlib.util.find_spec(PACKAGE) is not None


@functools.cache
def devices() -> tuple[onnxruntime.OrtEpDevice, ...]:
    """The cards that the plug-in offers, for `SessionOptions.add_provider_for_devices`. Registers it once.

    Raises:
        PlugInError: there are none, and why.
    """
    if not is_installed():
        raise PlugInError(f"no {PROVIDER} here: pip install onnxruntime-ep-nv-tensorrt-rtx-cu13")
    try:
        package = importlib.import_module(PACKAGE)
        onnxruntime.register_execution_provider_library(PROVIDER, package.get_library_path())
    except Exception as error:  # ONNX Runtime raises what its library throws, the package what its files lack
        raise PlugInError(f"{PROVIDER} does not load: {error}") from error
    found = tuple(device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER)
    if not found:
        raise PlugInError(f"{PROVIDER} finds no card that it can use")
    return found
