"""The engines and precisions that this machine supports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.engines.choice import EngineName, installed_engines


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine as the server's settings name it.

    Attributes:
        engine: which one.
        precision: of matrix products in float32 graphs.
    """

    engine: EngineName
    precision: Literal["float32", "bfloat16"] = "float32"

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"

    @property
    def settings(self) -> dict[str, object]:
        """Server settings that select it."""
        return {"engine": self.engine, "precision": self.precision}


def engine_choices() -> list[EngineChoice]:
    """Every installed engine in every precision that the CPU supports natively."""
    choices = [EngineChoice(name) for name in installed_engines()]
    if "openvino" in installed_engines():
        from service.engines.openvino_runtime import multiplies_bfloat16

        if multiplies_bfloat16():
            choices.append(EngineChoice("openvino", "bfloat16"))
    return choices
