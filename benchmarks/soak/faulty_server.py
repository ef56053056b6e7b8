"""A real server whose engine fails at random, for `capeserve soak`.

    python -m benchmarks.soak.faulty_server '{"repository": "exported", "port": 50051, …}' RATE

Only the ONNX Runtime sessions are replaced; the engine and everything above it is the service's own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import service.engines.choice
from service.engines.onnx_runtime import OnnxRuntimeEngine
from service.errors import StartError
from service.server import serve
from service.settings import load_settings
from service.telemetry.logs import configure_logs

Outputs = list[npt.NDArray[Any]]

HANG_SECONDS = 6.0
"""`hang_seconds` of the soak's servers: longer than a batch takes on a busy machine. Injected hangs last 1.5 times as
long."""


def _raise(outputs: Outputs) -> Outputs:
    raise RuntimeError("a fault of the soak")


def _not_a_number(outputs: Outputs) -> Outputs:
    return [np.full_like(output, np.nan) for output in outputs]


def _wrong_shape(outputs: Outputs) -> Outputs:
    return [output[..., :-1] for output in outputs]


def _too_few_rows(outputs: Outputs) -> Outputs:
    return [output[:-1] for output in outputs]


def _hang(outputs: Outputs) -> Outputs:
    time.sleep(1.5 * HANG_SECONDS)
    return outputs


FAULTS: dict[Callable[[Outputs], Outputs], int] = {
    _raise: 25,
    _not_a_number: 25,
    _wrong_shape: 25,
    _too_few_rows: 25,
    _hang: 1,
}
"""Injected faults and their relative frequency."""


class FaultySession:
    """An ONNX Runtime session that fails at random."""

    def __init__(self, session: Any, rate: float) -> None:
        """Wraps a session; `rate` is the fraction of runs that fail."""
        self._session = session
        self._rate = rate

    def run(self, names: Sequence[str], inputs: Mapping[str, npt.NDArray[Any]]) -> Outputs:
        """See `onnxruntime.InferenceSession.run`."""
        outputs: Outputs = self._session.run(names, inputs)
        if random.random() >= self._rate:
            return outputs
        (fault,) = random.choices(list(FAULTS), list(FAULTS.values()))
        return fault(outputs)


def main(arguments: Sequence[str]) -> None:
    """Serves until SIGTERM."""
    settings, rate = load_settings(flags=json.loads(arguments[0])), float(arguments[1])

    class FaultyEngine(OnnxRuntimeEngine):
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named)
            self._sessions = {name: FaultySession(session, rate) for name, session in self._sessions.items()}

    service.engines.OnnxRuntimeEngine = FaultyEngine  # type: ignore[attr-defined]
    configure_logs("info", "text")
    try:
        ended = asyncio.run(serve(settings))
    except StartError as error:
        sys.exit(str(error))
    if not ended:
        logging.shutdown()
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
