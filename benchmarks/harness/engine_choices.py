"""Which engines and precisions this machine has: what the benchmarks that compare them go through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.engines.choice import EngineName, installed_engines


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine as the server's settings name it.

    Attributes:
        engine: which one.
        precision: of its products of float32 graphs.
    """

    engine: EngineName
    precision: Literal["float32", "bfloat16"] = "float32"

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"

    @property
    def settings(self) -> dict[str, object]:
        """The server's settings that choose it."""
        return {"engine": self.engine, "precision": self.precision}


def engine_choices() -> list[EngineChoice]:
    """Every engine that is installed, in every precision that this CPU has."""
    choices = [EngineChoice(name) for name in installed_engines()]
    if "openvino" in installed_engines():
        from service.engines.openvino_runtime import multiplies_bfloat16

        if multiplies_bfloat16():
            choices.append(EngineChoice("openvino", "bfloat16"))
    return choices
