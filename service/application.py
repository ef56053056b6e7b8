"""The application: everything that a server consists of except the network, built from its settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cape import __version__
from cape.manifest import Manifest, ManifestError, read_manifest
from service.batching.batcher import Batcher
from service.engines.base import BatchRunner, Engine
from service.engines.choice import load_engine
from service.engines.traced import TracedRunner
from service.errors import EngineError, StartError
from service.images.decoding import DecodeMemory, DecodePool
from service.images.reading import ImageLimits
from service.model_digests import verify_digests
from service.pipelines.assembly import Pipelines
from service.pipelines.query import Estimation
from service.process.background import BackgroundTasks
from service.process.memory import return_freed_memory
from service.settings import Settings, without_secrets
from service.supports.registry import RegistryError, SupportRegistry
from service.supports.registry_metrics import ObservedRegistry
from service.supports.sqlite import SqliteRegistry
from service.supports.store import Supports
from service.telemetry.metrics import Metrics
from service.telemetry.performance import PerformanceMonitor, paper_row
from service.telemetry.request_context import Tracer
from service.warm_up import warm_up


@dataclass(frozen=True, slots=True)
class Application:
    """The parts that the handlers need.

    Attributes:
        manifest: of the served repository.
        default_system: answers requests that name no model.
        runner: runs the models.
        supports: registered supports, and those sent with queries.
        estimation: answers queries.
        metrics: for Prometheus.
        performance: for GetPerformanceReport.
        background: tasks that run as long as the server.
        decoding: threads that decode images.
    """

    manifest: Manifest
    default_system: str
    runner: BatchRunner
    supports: Supports
    estimation: Estimation
    metrics: Metrics
    performance: PerformanceMonitor
    background: BackgroundTasks
    decoding: DecodePool

    @property
    def ready(self) -> bool:
        """Whether queries can be answered now; the registry must have answered at least once since the start."""
        return self.runner.healthy and not self.decoding.stuck and self.supports.registry_health is not None

    @property
    def hanging(self) -> bool:
        """Whether only a restart helps: an engine run, or every decoding thread, exceeds its time limit."""
        return self.runner.hanging or self.decoding.stuck


@asynccontextmanager
async def open_application(
    settings: Settings, engine: Engine | None = None, tracer: Tracer | None = None
) -> AsyncIterator[Application]:
    """Loads the models and opens the registry; on exit, finishes running work and closes them.

    Args:
        settings: of the server.
        engine: runs the models instead of ONNX Runtime in this process; closed on leaving as well.
        tracer: records spans; None records none.

    Raises:
        StartError: the repository or the registry cannot be used.
    """
    async with AsyncExitStack() as stack:
        try:
            manifest = read_manifest(settings.repository)
            default_system = settings.default_system or next(iter(manifest.systems))
            if default_system not in manifest.systems:
                raise StartError(
                    f"default_system: {default_system!r} is not in {settings.repository}, which has: "
                    f"{', '.join(manifest.systems)}"
                )
            registry = open_registry(settings.registry)
            stack.push_async_callback(registry.close)
            runner, metrics = await _open_runner(settings, manifest, engine, stack)
        except (ManifestError, RegistryError) as error:
            raise StartError(str(error)) from None
        except EngineError as error:
            raise StartError(f"{settings.repository}: {error}") from None
        if tracer is not None:
            runner = TracedRunner(runner)
        pool = DecodePool(settings.decode_threads, settings.decode_seconds)
        stack.callback(pool.close)

        try:
            pipelines = Pipelines(
                settings.repository,
                manifest,
                runner,
                text_cache_bytes=settings.text_cache_bytes,
                support_cache_bytes=settings.support_cache_bytes,
            )
        except ValueError as error:
            raise StartError(str(error)) from None
        limits = ImageLimits(
            settings.max_image_bytes,
            settings.max_image_pixels,
            settings.max_image_scans,
            DecodeMemory(settings.decode_memory_bytes),
        )
        supports = Supports(
            ObservedRegistry(registry, metrics),
            manifest,
            limits,
            pool=pool,
            definition_cache_bytes=settings.definition_cache_bytes,
            max_page_bytes=settings.max_message_bytes,
            forget=pipelines.forget,
            known=pipelines.known,
            max_owner_bytes=settings.max_tenant_storage_bytes,
            check_words=pipelines.check_words,
        )
        try:
            await supports.open(metrics.registry_health)
        except RegistryError as error:
            raise StartError(str(error)) from None
        background = BackgroundTasks(metrics)
        stack.push_async_callback(background.close)
        background.start("registry", supports.maintain)
        for name, cache in pipelines.caches.items():
            metrics.watch_cache(name, cache)
        metrics.watch_cache("definitions", supports.definitions)
        performance = PerformanceMonitor(
            {name: paper_row(name, system.parameters) for name, system in manifest.systems.items()}
        )
        metrics.watch_performance(performance.report)
        estimation = Estimation(
            manifest,
            pipelines.by_system,
            supports,
            limits,
            default_system=default_system,
            max_boxes=settings.max_boxes,
            pool=pool,
            metrics=metrics,
            performance=performance,
            max_answer_bytes=settings.max_answer_bytes,
            lookup_seconds=settings.default_deadline_seconds,
        )
        yield Application(
            manifest, default_system, runner, supports, estimation, metrics, performance, background, pool
        )


async def _open_runner(
    settings: Settings, manifest: Manifest, engine: Engine | None, stack: AsyncExitStack
) -> tuple[BatchRunner, Metrics]:
    """What runs the models, and the metrics that it reports to; the stack closes it.

    Raises:
        EngineError: an engine in this process cannot load the models.
        StartError: what the engine needs is not installed.
    """
    if engine is None and settings.engine == "triton":
        return await _connect_triton(settings, manifest, stack)
    if engine is None:
        assert settings.engine != "triton"
        engine = await asyncio.to_thread(
            _load_verified,
            settings.engine,
            settings.repository,
            manifest,
            threads=settings.threads,
            providers=settings.providers,
            precision=settings.precision,
        )
        await asyncio.to_thread(warm_up, engine, manifest)
        await asyncio.to_thread(return_freed_memory)
    stack.callback(engine.close)
    metrics = Metrics(manifest, version=__version__, engine=engine.description)
    batcher = Batcher(
        engine,
        manifest,
        max_queue=settings.max_queue,
        max_batch=settings.max_batch,
        hang_seconds=settings.hang_seconds,
        observer=metrics,
    )
    stack.push_async_callback(batcher.close)
    return batcher, metrics


def _load_verified(
    name: Literal["auto", "onnxruntime", "openvino"], repository: Path, manifest: Manifest, **options: Any
) -> Engine:
    """Loads the models while their files are verified.

    Raises:
        EngineError: the engine cannot load them.
        StartError: a file is damaged.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="digests") as pool:
        verification = pool.submit(verify_digests, repository, manifest)
        try:
            engine = load_engine(name, repository, manifest, **options)
        except EngineError:
            # A damaged file often cannot be loaded: its digest explains why.
            verification.result()
            raise
        try:
            verification.result()
        except StartError:
            engine.close()
            raise
        return engine


async def _connect_triton(settings: Settings, manifest: Manifest, stack: AsyncExitStack) -> tuple[BatchRunner, Metrics]:
    try:
        from service.engines.triton import TritonEngine
    except ModuleNotFoundError as error:
        raise StartError(f"engine triton needs {error.name}: pip install 'capeserve[triton]'") from None
    await asyncio.to_thread(verify_digests, settings.repository, manifest, graphs=False)
    metrics = Metrics(manifest, version=__version__, engine=f"triton:{settings.triton_url}")
    triton = TritonEngine(
        settings.triton_url,
        manifest,
        max_queue=settings.max_queue,
        hang_seconds=settings.hang_seconds,
        observer=metrics,
    )
    await triton.open()
    stack.push_async_callback(triton.close)
    return triton, metrics


@asynccontextmanager
async def open_tracer(settings: Settings) -> AsyncIterator[Tracer | None]:
    """What records spans, or None where traces are off; on leaving, sends what is left.

    Raises:
        StartError: what traces need is not installed.
    """
    if not settings.tracing_endpoint:
        yield None
        return
    try:
        from service.telemetry.opentelemetry import OpenTelemetryTracer, otlp_exporter
    except ModuleNotFoundError as error:
        raise StartError(f"tracing_endpoint needs {error.name}: pip install 'capeserve[tracing]'") from None
    tracer = OpenTelemetryTracer(otlp_exporter(settings.tracing_endpoint), settings.tracing_sample_ratio)
    try:
        yield tracer
    finally:
        await asyncio.to_thread(tracer.close)


def open_registry(url: str) -> SupportRegistry:
    """Opens the support registry that a URL names.

    Args:
        url: 'sqlite:///relative/file', 'sqlite:////absolute/file', or 'sqlite://' for memory; 'redis://…',
            'rediss://…', 'unix://…' or 'redis+sentinel://…' for Redis.

    Raises:
        RegistryError: the URL is not supported, or the registry cannot be opened.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in ("redis", "rediss", "unix", "redis+sentinel"):
        try:
            from service.supports.redis import RedisRegistry
        except ModuleNotFoundError as error:
            raise RegistryError(f"registry {scheme}:// needs {error.name}: pip install 'capeserve[redis]'") from None
        return RedisRegistry(url)
    if scheme != "sqlite" or not separator or (rest and not rest.startswith("/")) or rest == "/":
        raise RegistryError(
            "registry: expected sqlite:///FILE, sqlite://, redis://HOST or redis+sentinel://HOST,HOST/SERVICE, "
            f"not {without_secrets(url)!r}"
        )
    return SqliteRegistry(Path(rest[1:]) if rest else None)
