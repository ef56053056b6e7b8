"""An engine that answers at once, to measure everything around the engine.

`python -m benchmarks.harness.null_engine REPOSITORY PORT [SETTING=VALUE …]` serves a repository until SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cape.manifest import Manifest, read_manifest
from service.engines.base import Tensors
from service.process.memory import keep_freed_memory
from service.server import running_server
from service.settings import load_settings


class NullEngine:
    """Answers with ones of the manifest's shapes. Implements `service.engines.base.Engine`."""

    description = "null"
    concurrency = 1
    useful_batch = None

    def __init__(self, manifest: Manifest) -> None:
        """Takes the manifest of the repository it stands in for."""
        self._manifest = manifest

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """See `service.engines.base.Engine.run`."""
        spec = self._manifest.components[component]
        sizes: dict[str, int] = {}
        for tensor in spec.inputs:
            actual = inputs[tensor.name].shape
            sizes |= {size: length for size, length in zip(tensor.shape, actual, strict=True) if isinstance(size, str)}
        return {
            tensor.name: np.ones([sizes[size] if isinstance(size, str) else size for size in tensor.shape], np.float32)
            for tensor in spec.outputs
            if tensor.name in outputs
        }

    def close(self) -> None:
        """Does nothing."""


async def main(repository: Path, port: int, settings: Mapping[str, str]) -> None:
    """Serves until SIGTERM; prints a line when ready."""
    keep_freed_memory()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    fixed = {"repository": repository, "port": port, "metrics_port": 0, "registry": "sqlite://", "decode_threads": 1}
    async with running_server(load_settings(flags={**fixed, **settings}), NullEngine(read_manifest(repository))):
        print("ready", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), dict(word.split("=", 1) for word in sys.argv[3:])))
