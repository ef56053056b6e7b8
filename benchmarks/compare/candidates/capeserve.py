"""capeserve over gRPC, in its own process, with an embedded engine or with Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from benchmarks.compare.candidates import AbsentError, Candidate, Points, Support
from benchmarks.harness.calls import Caller, cold_request, register, warm_request
from benchmarks.harness.serving import Serve
from benchmarks.harness.workloads import Workload
from cape.manifest import read_manifest

CALLERS = 16

FIRST_SYSTEM = ""
"""Requests without a model use the repository's first system."""


@contextmanager
def served(
    repository: Path, serve: Serve, settings: Mapping[str, object], asked: Sequence[Workload], label: str
) -> Iterator[list[Candidate]]:
    """Two candidates of one server: with new supports, and with a registered one.

    Args:
        repository: exported.
        serve: starts the server.
        settings: of the server.
        asked: the queries, each with the support.
        label: what the engine is called.
    """
    manifest = read_manifest(repository)
    system = next(iter(manifest.systems.values()))
    precision = manifest.components[system.main_component].precision
    with serve(repository, settings) as server, Caller(server.target) as caller:
        (name,) = register(server.target, [asked[0].support])
        known = [warm_request(work, name, FIRST_SYSTEM) for work in asked]

        def cold(index: int, number: int) -> Points:
            return _points(caller, cold_request(asked[index], number, FIRST_SYSTEM) if number else known[index])

        def warm(index: int, number: int) -> Points:
            return _points(caller, known[index])

        ways: dict[Support, Callable[[int, int], Points]] = {"computed": cold, "kept": warm}
        yield [Candidate(f"capeserve, {label}", kind, precision, ask, CALLERS) for kind, ask in ways.items()]


@contextmanager
def through_triton(repository: Path, serve: Serve, asked: Sequence[Workload], log: Path) -> Iterator[list[Candidate]]:
    """capeserve in front of a real Triton server on this machine.

    Raises:
        AbsentError: Triton cannot be installed or started here.
    """
    from export.triton.local.environment import TritonSetupError, default_home, install
    from export.triton.local.server import Ports, TritonStartError, check_repository, triton_server

    with ExitStack() as stack:
        try:
            check_repository(repository)
            installation = install(default_home())
            output = stack.enter_context(log.open("wb"))
            triton = stack.enter_context(triton_server(installation, repository, log=output, ports=Ports(0, 0, 0)))
        except (TritonSetupError, TritonStartError) as error:
            raise AbsentError(f"Triton: {error}") from None
        settings = {"engine": "triton", "triton_url": triton.grpc}
        yield stack.enter_context(served(repository, serve, settings, asked, "Triton"))


def _points(caller: Caller, request: bytes) -> Points:
    (instance,) = caller.ask(request).response.instances
    return np.array([(keypoint.x, keypoint.y) for keypoint in instance.keypoints], dtype=np.float32)
