"""Everything that is to be known of a GPU, within a time limit: `capeserve bench gpu`.

Engine and gRPC service, cold and warm, in every precision, with and without CUDA graphs; PyTorch, eager and compiled,
beside them; throughput by batch size and under the load of many callers. Results are handed out after every step, and a
step that fails is a result too: a GPU is often lent for minutes, and nothing measured may be lost.
"""

from __future__ import annotations

import functools
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.engine.measurement import Workload, seconds_of
from benchmarks.gpu.results import Results, Row, milliseconds
from benchmarks.gpu.service import measure_load, measure_service
from benchmarks.harness.serving import Serve
from cape.manifest import Manifest, Precision, read_manifest
from service.engines.base import query_models
from service.engines.onnx_runtime import OnnxRuntimeEngine
from service.telemetry.performance import PAPER, Percentiles

BATCHES = (1, 2, 4, 8, 16, 32, 64)

SETTINGS: tuple[tuple[Precision, bool, bool], ...] = (
    ("float16", True, True),
    ("float32", True, True),
    ("float32", True, False),
    ("float16", False, True),
    ("float32", False, False),
)
"""Precisions, with and without CUDA graphs, with and without fused operators, the most interesting first."""


def measure_gpu(
    repository: Path,
    serve: Serve,
    results: Results,
    *,
    provider: str = "CUDAExecutionProvider",
    configuration: Path | None = None,
    keypoints: int = 17,
    runs: int = 60,
    callers: int = 64,
    servers: Sequence[int] = (1, 4, 8),
) -> None:
    """Measures one system on one GPU.

    Args:
        repository: exported with `--gpu-graphs`; its first system is measured.
        serve: starts servers.
        results: takes what is measured.
        provider: execution provider of ONNX Runtime.
        configuration: of the model, for PyTorch beside it; None: without.
        keypoints: K of the support.
        runs: measured runs of each kind.
        callers: of the load.
        servers: numbers of server processes under the load.
    """
    manifest = read_manifest(repository)
    for precision, graphs, fused in SETTINGS:
        with results.step(f"engine {precision}{' graphs' if graphs else ''}{' fused' if fused else ''}", 25):
            if results.open:
                _measure_engine(repository, manifest, provider, precision, graphs, fused, keypoints, runs, results)
    with results.step("over gRPC, float16", 35):
        if results.open:
            measure_service(repository, serve, _settings(provider, "float16"), keypoints, runs, results)
    for count in servers:
        with results.step(f"load, {count} servers", 25 + 2 * count):
            if results.open:
                settings = _settings(provider, "float16")
                measure_load(repository, manifest, serve, settings, count, callers, keypoints, results)
    if configuration is not None:
        with results.step("PyTorch eager", 20):
            if results.open:
                _measure_torch(configuration, manifest, keypoints, results, compiled=False)
    with results.step("over gRPC, float32", 35):
        if results.open:
            measure_service(repository, serve, _settings(provider, "float32"), keypoints, runs, results)
    if configuration is not None:
        with results.step("PyTorch compiled", 45):
            if results.open:
                _measure_torch(configuration, manifest, keypoints, results, compiled=True)


def _measure_engine(
    repository: Path,
    manifest: Manifest,
    provider: str,
    precision: Precision,
    graphs: bool,
    fused: bool,
    keypoints: int,
    runs: int,
    results: Results,
) -> None:
    system = next(iter(manifest.support_systems))
    began = time.perf_counter()
    engine = OnnxRuntimeEngine(
        repository, manifest, providers=(provider,), precision=precision, graphs=graphs, fused=fused
    )
    loading = time.perf_counter() - began
    captured = system in query_models(engine, manifest)
    kind = {"system": system, "precision": precision, "graphs": captured, "fused": fused}
    try:
        if graphs and not captured:
            results.add("failed", step=f"graphs, {precision}", error="the engine fell back, see its log")
        work = Workload(engine, manifest, system, keypoints)
        warm = Percentiles.of(seconds_of(lambda: work.warm(1), runs, 10))
        cold = Percentiles.of(seconds_of(work.cold, runs // 2, 5))
        paper = PAPER[system].seconds if system in PAPER else None
        times = {b: statistics.median(seconds_of(functools.partial(work.warm, b), max(8, 40 // b), 3)) for b in BATCHES}
        results.add(
            "engine",
            **kind,
            load_seconds=round(loading, 2),
            cold_ms=milliseconds(cold.p50),
            cold_p95_ms=milliseconds(cold.p95),
            warm_ms=milliseconds(warm.p50),
            warm_p95_ms=milliseconds(warm.p95),
            times_paper_cold=paper and round(paper / cold.p50, 2),
            times_paper_warm=paper and round(paper / warm.p50, 2),
            images_per_second={b: round(b / seconds, 1) for b, seconds in times.items()},
        )
        for batch in (16, 32, 64):
            rate = _two_in_flight(work, batch, seconds=1.0)
            results.add("engine, two in flight", **kind, batch=batch, images_per_second=round(rate, 1))
        _agreement(manifest, engine, system, keypoints, kind, results)
        if captured:
            _kernels(work, kind, results)
    finally:
        engine.close()


def _two_in_flight(work: Workload, batch: int, seconds: float) -> float:
    """Images per second with two threads, as a server's engine has them."""
    done = [0, 0]

    def run(index: int) -> None:
        while time.perf_counter() < until:
            work.warm(batch)
            done[index] += batch

    work.warm(batch)
    began = time.perf_counter()
    until = began + seconds
    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def _agreement(
    manifest: Manifest,
    engine: OnnxRuntimeEngine,
    system: str,
    keypoints: int,
    kind: Row,
    results: Results,
) -> None:
    """How far the answers are from those of the same graphs on the CPU."""
    parts = manifest.systems[system].components
    spec = manifest.components[parts["pose_decoder"]]
    random = np.random.default_rng(1)
    padded, batch = manifest.bucket(keypoints), 3
    image = random.integers(0, 256, (batch, manifest.image_size, manifest.image_size, 3), dtype=np.uint8)
    others: dict[str, Any] = {}
    for tensor in spec.inputs:
        shape = [{"B": batch, "K": padded}.get(size, 1) if isinstance(size, str) else size for size in tensor.shape]
        if tensor.name == "support_tokens":
            others[tensor.name] = random.standard_normal(shape).astype(np.float32)
        elif tensor.name != "features":
            others[tensor.name] = np.ones(shape, np.float32)

    backbone, decoder = parts["image_backbone"], parts["pose_decoder"]
    features = engine.run(backbone, {"image": image}, ["features"])["features"]
    model = engine.query_model(system)
    if model is not None:
        found = engine.run(model, {"image": image, **others}, ["keypoints"])["keypoints"]
    else:
        found = engine.run(decoder, {"features": features, **others}, ["keypoints"])["keypoints"]

    def on_cpu(component: str, output: str, inputs: Row) -> Any:
        session = onnxruntime.InferenceSession(engine.graph_file(component), providers=["CPUExecutionProvider"])
        return session.run([output], inputs)[0]

    expected_features = on_cpu(backbone, "features", {"image": image})
    expected = on_cpu(decoder, "keypoints", {"features": expected_features, **others})
    distance = np.linalg.norm(found - expected, axis=-1)
    results.add(
        "agreement with the CPU",
        **kind,
        features_relative=float(np.abs(features - expected_features).mean() / np.abs(expected_features).mean()),
        keypoints_median=float(np.median(distance)),
        keypoints_largest=float(distance.max()),
    )


def _kernels(work: Workload, kind: Row, results: Results) -> None:
    """Kernels of one query, and where their time goes; needs PyTorch's profiler, which sees the whole process."""
    try:
        from torch.profiler import ProfilerActivity, profile
    except ModuleNotFoundError:
        return
    for batch in (1, 32):
        work.warm(batch)
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            for _ in range(5):
                work.warm(batch)
        events = [event for event in recorded.key_averages() if event.device_time_total > 0]
        events.sort(key=lambda event: -event.device_time_total)
        results.add(
            "kernels",
            **kind,
            batch=batch,
            kernels=sum(event.count for event in events) // 5,
            device_ms=round(sum(event.device_time_total for event in events) / 5e3, 3),
            slowest=[
                (event.key[:90], event.count // 5, round(event.device_time_total / 5e3, 4)) for event in events[:25]
            ],
        )


def _measure_torch(
    configuration: Path, manifest: Manifest, keypoints: int, results: Results, *, compiled: bool
) -> None:
    """The same model in PyTorch: what a GPU user runs without us."""
    import torch

    from cape.checkpoints import untrained
    from cape.configuration import parse_configuration

    device = "cuda" if torch.cuda.is_available() else "cpu"
    system = untrained(parse_configuration(configuration.read_bytes(), configuration), 0).to(device).eval()
    head, padded = system.configuration.head, manifest.bucket(keypoints)
    width, pathways = head.width, system.configuration.pathways
    ways: tuple[tuple[str, bool, bool], ...] = (("eager float32", False, False), ("eager float16", True, False))
    if compiled:
        ways = (("compiled float16, CUDA graphs", True, True),)
    for name, half, compile_it in ways:
        encode, decode = system.encode_image, system.decode_pose
        if compile_it:
            encode = torch.compile(encode, mode="reduce-overhead")
            decode = torch.compile(decode, mode="reduce-overhead")
        torch.backends.cuda.matmul.allow_tf32 = True
        for batch in (1,) if compile_it else (1, 8, 32):
            size = manifest.image_size
            images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
            tokens = torch.randn(batch, pathways, padded, width, device=device)
            mask = torch.ones(batch, pathways, padded, device=device)
            adjacency = torch.ones(batch, padded, padded, device=device)

            def query(
                images: Any = images,
                rest: Any = (tokens, mask, adjacency),
                encode: Any = encode,
                decode: Any = decode,
                half: bool = half,
                copy: bool = compile_it,
            ) -> None:
                with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=half):
                    features = encode(torch.from_numpy(images).to(device))
                    if copy:  # the next graph may write over what this one has answered
                        features = features.clone()
                    decode(features, *rest).keypoints.float().cpu()

            began = time.perf_counter()
            query()
            first = time.perf_counter() - began
            median = statistics.median(seconds_of(query, 30, 5))
            results.add(
                "PyTorch",
                way=name,
                batch=batch,
                first_seconds=round(first, 1),
                warm_ms=milliseconds(median),
                images_per_second=round(batch / median, 1),
            )
    del system
    torch.cuda.empty_cache()


def _settings(provider: str, precision: str) -> dict[str, object]:
    return {"engine": "onnxruntime", "providers": (provider,), "precision": precision}
