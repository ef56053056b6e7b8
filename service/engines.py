"""Which engine runs the models in this process: chosen by name, loaded where its library is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from cape.manifest import Manifest
from service.engine import Engine
from service.errors import EngineError
from service.onnx_engine import OnnxRuntimeEngine

EngineName = Literal["onnxruntime", "openvino"]


def installed_engines() -> tuple[EngineName, ...]:
    """Engines whose libraries are there."""
    return ("onnxruntime", "openvino") if importlib.util.find_spec("openvino") else ("onnxruntime",)


def load_engine(
    name: EngineName,
    repository: Path,
    manifest: Manifest,
    *,
    threads: int | None = None,
    providers: tuple[str, ...] = (),
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Engine:
    """Loads every component of a repository.

    Args:
        name: which engine.
        repository: folder of an exported repository.
        manifest: its manifest.
        threads: CPU threads of a run; None: one per CPU that this process may use.
        providers: ONNX Runtime's execution providers, best first; empty: the best that are installed.
        precision: OpenVINO's, of matrix products.

    Raises:
        EngineError: the library is not installed, or as the engine's own.
    """
    if name == "onnxruntime":
        if precision != "float32":
            raise EngineError("engine", f"{precision} needs engine openvino; what ONNX Runtime runs is in the graphs")
        return OnnxRuntimeEngine(repository, manifest, threads, providers or None)
    if name not in installed_engines():
        raise EngineError("engine", "engine openvino needs openvino: pip install 'capeserve[openvino]'")
    from service.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(repository, manifest, threads, precision)
