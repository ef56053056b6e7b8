"""Which engine runs the models in this process: chosen by name, loaded where its library is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import onnxruntime

from cape.manifest import Manifest, Precision
from service.engines import rtx_plugin
from service.engines.base import Engine
from service.engines.onnx_runtime import HOST_PROVIDERS, PROVIDERS, OnnxRuntimeEngine
from service.engines.packages import check_one_onnxruntime
from service.errors import EngineError

EngineName = Literal["onnxruntime", "openvino"]

ACCELERATORS = frozenset(PROVIDERS) - frozenset(HOST_PROVIDERS)
"""Execution providers of ONNX Runtime that run models elsewhere than on the CPU."""


def installed_engines() -> tuple[EngineName, ...]:
    """Engines whose libraries are there."""
    return ("onnxruntime", "openvino") if importlib.util.find_spec("openvino") else ("onnxruntime",)


def best_engine(providers: tuple[str, ...] = ()) -> EngineName:
    """What suits this machine: OpenVINO on CPUs where it is installed, else ONNX Runtime, which knows accelerators.

    Args:
        providers: ONNX Runtime's execution providers that are asked for; any settles it.
    """
    accelerated = rtx_plugin.is_installed() or ACCELERATORS.intersection(onnxruntime.get_available_providers())
    return "onnxruntime" if providers or accelerated or "openvino" not in installed_engines() else "openvino"


def load_engine(
    name: EngineName | Literal["auto"],
    repository: Path,
    manifest: Manifest,
    *,
    threads: int | None = None,
    providers: tuple[str, ...] = (),
    precision: Precision = "float32",
    graphs: bool = True,
) -> Engine:
    """Loads every component of a repository.

    Args:
        name: which engine; 'auto' takes `best_engine`.
        repository: folder of an exported repository.
        manifest: its manifest.
        threads: CPU threads of a run; None: one per CPU that this process may use.
        providers: ONNX Runtime's execution providers, best first; empty: the best that are installed.
        precision: of the arithmetic. bfloat16 needs OpenVINO, float16 an accelerator and the repository's own graphs.
        graphs: use CUDA graphs where the provider has them.

    Raises:
        EngineError: the library is not installed, both builds of ONNX Runtime are, or as the engine's own.
    """
    check_one_onnxruntime()
    if name == "auto":
        name = best_engine(providers)
    if name == "onnxruntime":
        if precision in ("bfloat16", "int8"):
            raise EngineError("engine", f"{precision} needs engine openvino; what ONNX Runtime runs is in the graphs")
        return OnnxRuntimeEngine(repository, manifest, threads, providers or None, precision=precision, graphs=graphs)
    if name not in installed_engines():
        raise EngineError("engine", "engine openvino needs openvino: pip install 'capeserve[openvino]'")
    from service.engines.openvino_runtime import OpenVinoEngine

    if precision not in ("float32", "bfloat16"):
        raise EngineError("engine", f"engine openvino has no {precision}")
    return OpenVinoEngine(repository, manifest, threads, precision)
