"""Reproduces Table 5: latency of every system, cold and warm, engine alone and over gRPC: `capeserve bench latency`.

As in the paper: one request at a time, 100 runs after a warm-up. Cold is a query with a new support, as the paper
counts; warm is one with a cached support. Engine runs and calls alternate, so that a machine that slows down slows
both; the median difference between neighbours is the cost of the service.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.engine.measurement import Workload as EngineWorkload
from benchmarks.engine.measurement import open_engine, seconds_of
from benchmarks.harness.calls import Caller, cold_request, register, warm_request
from benchmarks.harness.matrix_flops import matrix_multiply_adds
from benchmarks.harness.serving import Serve
from benchmarks.harness.table5 import has_published_size
from benchmarks.harness.workloads import Workload, used_modalities, workload
from cape.manifest import MODEL_FILE, Manifest, read_manifest
from service.telemetry.performance import PAPER, PaperFigures, Percentiles

TOKENS = 6
"""Tokens of each keypoint's text, as Table 5 counts them."""

WARM_UP = 10
"""Warm-up runs of each kind."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Latency:
    """One request at a time, in seconds.

    Attributes:
        engine: the engine runs of such a request.
        round_trip: as the caller sees it, over gRPC.
        server: as the server reports it, without the network.
        service_cost: median difference between a call and the engine run before it.
    """

    engine: Percentiles
    round_trip: Percentiles
    server: Percentiles
    service_cost: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, tuple[float, float]]]) -> Latency:
        """Summarises pairs of an engine run and the call after it (round trip, server)."""
        return cls(
            Percentiles.of(alone for alone, _ in pairs),
            Percentiles.of(trip for _, (trip, _) in pairs),
            Percentiles.of(server for _, (_, server) in pairs),
            median(trip - alone for alone, (trip, _) in pairs),
        )


@dataclass(frozen=True, slots=True)
class MultiplyAdds:
    """Multiply-adds of one query.

    Attributes:
        per_query: with a cached support: a backbone pass and the pose decoder.
        uncached: with a new support of one image: what the paper counts.
    """

    per_query: int
    uncached: int


@dataclass(frozen=True, slots=True)
class SystemLatency:
    """A row of the table.

    Attributes:
        system: which one.
        repository: name of the folder that it is served from.
        engine: what ran it.
        precision: of its backbone.
        backbone: its name.
        parameters: of the system.
        cold, warm: latency.
        cost: multiply-adds; None unless the system has the published size.
    """

    system: str
    repository: str
    engine: str
    precision: str
    backbone: str
    parameters: int
    cold: Latency
    warm: Latency
    cost: MultiplyAdds | None

    @property
    def paper(self) -> PaperFigures | None:
        """The paper's RTX 3060; None for a system that is not in Table 5 or has another size."""
        return PAPER.get(self.system) if self.cost is not None else None


def measure_latencies(
    repository: Path,
    serve: Serve,
    settings: Mapping[str, object],
    *,
    keypoints: int = 17,
    runs: int = 100,
    progress: Progress = lambda text: None,
) -> list[SystemLatency]:
    """Measures every system of a repository.

    Args:
        repository: exported.
        serve: starts the server.
        settings: of the server; its providers and threads also apply to the engine alone.
        keypoints: K of the support.
        runs: measured runs of each kind.
        progress: told what is being measured.
    """
    manifest = read_manifest(repository)
    found = []
    with (
        contextlib.closing(open_engine(repository, manifest, settings)) as engine,
        serve(repository, settings) as served,
        Caller(served.target) as caller,
    ):
        for system, spec in manifest.systems.items():
            progress(f"{repository.name}: {system}")
            work = workload(keypoints=keypoints, modalities=used_modalities(spec))
            alone = EngineWorkload(engine, manifest, system, keypoints)
            ways = _ways(caller, served.target, work, system)
            cold, warm = _in_turns(alone, ways, runs)
            found.append(
                SystemLatency(
                    system=system,
                    repository=repository.name,
                    engine=engine.description,
                    precision=manifest.components[spec.components["image_backbone"]].precision,
                    backbone=spec.backbone,
                    parameters=spec.parameters,
                    cold=cold,
                    warm=warm,
                    cost=published_cost(repository, manifest, system, keypoints),
                )
            )
    return found


def published_cost(repository: Path, manifest: Manifest, system: str, keypoints: int) -> MultiplyAdds | None:
    """Multiply-adds of a system of the published size, counted in its exported graphs; None for another size.

    Args:
        repository: exported.
        manifest: of the repository.
        system: one of its systems.
        keypoints: K of the support.
    """
    spec = manifest.systems[system]
    if not has_published_size(system, spec.parameters):
        return None
    sizes = {"B": 1, "S": 1, "K": keypoints, "T": TOKENS}
    counts = {
        role: matrix_multiply_adds(repository / component / MODEL_FILE, sizes)
        for role, component in spec.components.items()
    }
    per_query = counts["image_backbone"] + counts["pose_decoder"]
    support_image = counts["image_backbone"] if spec.modalities.image else 0
    per_support = support_image + counts.get("text_encoder", 0) + counts["support_fusion"]
    return MultiplyAdds(per_query=per_query, uncached=per_support + per_query)


Ask = Callable[[], tuple[float, float]]
"""Sends a request; returns seconds as the caller and as the server saw them."""


def _ways(caller: Caller, target: str, work: Workload, system: str) -> dict[str, Ask]:
    """Requests of both kinds; cold ones are built before the clock starts."""
    (name,) = register(target, [work.support])
    known = warm_request(work, name, system)
    # Texts and images contain the time of day, so that the server has none of them cached.
    numbers = itertools.count(time.time_ns())

    def ask(request: bytes) -> tuple[float, float]:
        measured = caller.ask(request)
        total = measured.response.timing.total
        return measured.seconds, total.seconds + total.nanos / 1e9

    return {"cold": lambda: ask(cold_request(work, next(numbers), system)), "warm": lambda: ask(known)}


def _in_turns(alone: EngineWorkload, ways: Mapping[str, Ask], runs: int) -> tuple[Latency, Latency]:
    """Alternates engine runs and calls of each kind, after a warm-up."""
    engine: dict[str, Callable[[], None]] = {"cold": alone.cold, "warm": lambda: alone.warm(1)}
    pairs: dict[str, list[tuple[float, tuple[float, float]]]] = {kind: [] for kind in ways}
    for number in range(-min(WARM_UP, runs), runs):
        for kind, ask in ways.items():
            (seconds,) = seconds_of(engine[kind], 1, 0)
            call = ask()
            if number >= 0:
                pairs[kind].append((seconds, call))
    return Latency.of(pairs["cold"]), Latency.of(pairs["warm"])
