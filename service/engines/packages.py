"""Checks which ONNX Runtime is installed."""

from __future__ import annotations

from importlib import metadata

from service.errors import EngineError

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
"""Packages that install the same Python module, `onnxruntime`: the one installed last overwrites the other."""


def check_one_onnxruntime() -> None:
    """Refuses an environment that holds both builds of ONNX Runtime.

    Raises:
        EngineError: both are installed.
    """
    installed = [name for name in DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        raise EngineError(
            "engine",
            f"{' and '.join(installed)} are both installed, but are one Python package: run "
            f"`pip uninstall --yes {' '.join(DISTRIBUTIONS)}`, then `pip install 'capeserve[serve]'` for CPUs or "
            "`pip install 'capeserve[serve-gpu]'` for NVIDIA GPUs",
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
