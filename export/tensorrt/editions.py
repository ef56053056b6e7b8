"""The two editions of TensorRT: what they are called, what they can build for, and how to get them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from export.graph import ExportError

EditionName = Literal["standard", "rtx"]


@dataclass(frozen=True, slots=True)
class Edition:
    """An edition.

    Attributes:
        name: "standard" or "rtx".
        title: what NVIDIA calls it.
        modules: Python modules that hold its bindings, in the order in which they are tried.
        install: how to get it.
        targets: compute capabilities that it builds for ahead of time → cards that have them; empty where it builds
            for the card in the machine.
    """

    name: EditionName
    title: str
    modules: tuple[str, ...]
    install: str
    targets: dict[str, str]


EDITIONS: dict[EditionName, Edition] = {
    "standard": Edition("standard", "TensorRT", ("tensorrt",), "pip install 'capeserve[tensorrt]'", {}),
    "rtx": Edition(
        "rtx",
        "TensorRT for RTX",
        # The wheels on PyPI hold the first; NVIDIA's own packages the second.
        ("tensorrt_rtx_bindings", "tensorrt_rtx"),
        "pip install 'capeserve[tensorrt-rtx]'",
        {
            "sm75": "Turing: RTX 20, T4",
            "sm80": "Ampere: A100, A30",
            "sm86": "Ampere: RTX 30 (the paper's RTX 3060), A10, A40",
            "sm89": "Ada: RTX 40, L4, L40",
            "sm120": "Blackwell: RTX 50",
            "sm121": "Blackwell: GB10",
        },
    ),
}


def load_bindings(edition: Edition) -> Any:
    """Imports an edition's Python bindings.

    Raises:
        ExportError: they are not installed, or their library does not load; says which and how to get them.
    """
    for module in edition.modules:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise ExportError(f"{edition.title}: {module} needs {error.name}, which is not installed") from None
        except (ImportError, OSError) as error:
            raise ExportError(f"{edition.title}: {module} does not load: {error}") from None
    raise ExportError(f"{edition.title} is not installed: {edition.install}")


def compute_capabilities(edition: Edition, bindings: Any, targets: tuple[str, ...]) -> list[Any]:
    """The bindings' constants for the cards to build for; empty for the card in this machine.

    Raises:
        ExportError: the edition cannot build for a target, or no target is given where it needs one.
    """
    if not edition.targets:
        if targets:
            raise ExportError(f"{edition.title} builds for the card in this machine: leave --target out")
        return []
    if not targets:
        raise ExportError(f"{edition.title} needs --target: {', '.join(edition.targets)}")
    found = []
    for target in targets:
        constant = getattr(bindings.ComputeCapability, target.upper(), None)
        if target not in edition.targets or constant is None:
            raise ExportError(f"{edition.title} cannot build for {target!r}; it can for {', '.join(edition.targets)}")
        found.append(constant)
    return found
