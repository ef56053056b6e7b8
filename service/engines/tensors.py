"""Comparing what goes into an engine, and what comes out of it, with what the manifest says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cape.manifest import TensorSpec
from service.engines.base import Tensors
from service.errors import EngineError


def wanted_tensors(component: str, specs: Sequence[TensorSpec], names: Sequence[str]) -> list[TensorSpec]:
    """The outputs of these names, in the component's order.

    Raises:
        EngineError: the component has no output of a name.
    """
    wanted = [spec for spec in specs if spec.name in names]
    if len(wanted) != len(names):
        known = ", ".join(spec.name for spec in specs)
        raise EngineError(component, f"asked for {', '.join(names)}, has {known}")
    return wanted


def check_finite(component: str, arrays: Tensors) -> None:
    """Refuses answers that are not numbers.

    Raises:
        EngineError: naming the tensor that holds NaN or infinity.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise EngineError(component, f"{name} holds NaN or infinity")


def check_tensors(component: str, specs: Sequence[TensorSpec], arrays: Tensors, sizes: dict[str, int]) -> None:
    """Compares names and shapes with the manifest; `sizes` remembers what a dynamic size was first seen as.

    Raises:
        EngineError: naming the tensor.
    """
    if arrays.keys() != {spec.name for spec in specs}:
        expected = ", ".join(spec.name for spec in specs)
        raise EngineError(component, f"expects {expected}; got {', '.join(arrays) or 'nothing'}")
    for spec in specs:
        array = arrays[spec.name]
        expected_shape = [
            sizes.setdefault(size, actual) if isinstance(size, str) else size
            for size, actual in zip(spec.shape, array.shape, strict=False)
        ]
        if len(spec.shape) != array.ndim or list(array.shape) != expected_shape or array.dtype.name != spec.dtype:
            described = f"{spec.dtype} {list(spec.shape)}"
            raise EngineError(component, f"{spec.name} is {array.dtype} {list(array.shape)}, not {described}")
