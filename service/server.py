"""The gRPC server: start, health, and stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cape.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    pose_service_pb2,
    pose_service_pb2_grpc,
    support_service_pb2,
    support_service_pb2_grpc,
)
from service.access.certificate_dates import earliest_expiry
from service.application import Application, open_application, open_tracer
from service.engines.base import Engine
from service.errors import StartError
from service.grpc_options import server_options
from service.handlers.interceptor import CallInterceptor
from service.handlers.message_memory import MessageMemory
from service.handlers.models import ModelService
from service.handlers.pose import PoseService
from service.handlers.reflection import add_reflection
from service.handlers.stream_limits import StreamLimitInterceptor
from service.handlers.support import SupportService
from service.listening import access_of, address_of, health_server, listen
from service.process.memory import keep_freed_memory
from service.process.shutdown import Shutdown
from service.settings import Settings
from service.telemetry.metrics_server import MetricsServer
from service.telemetry.request_context import Tracer

__all__ = ["RunningServer", "StartError", "running_server", "serve"]

logger = logging.getLogger(__name__)

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (pose_service_pb2, "PoseService"),
        (support_service_pb2, "SupportService"),
        (model_service_pb2, "ModelService"),
    )
)

FLUSH_SECONDS = 0.5
"""Time for the last answers to leave, before calls that never end by themselves (health watches, reflection) are
cancelled."""

HEALTH_SECONDS = 1.0
"""How often the health service is updated."""

LIVENESS = "liveness"
"""Service of the health protocol that is NOT_SERVING when only a restart helps: while an engine run hangs in this
process. "" and the services of cape.v1 are also NOT_SERVING while Triton is away, which a restart does not change."""

REGISTRY = "registry"
"""Service of the health protocol that is NOT_SERVING while the registry is unavailable or full. The server goes on
answering queries with supports in memory, so this is for monitoring, not for readiness."""

STATUSES = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A running server.

    Attributes:
        host: address that it listens on.
        port: gRPC port; a free one where the settings have 0.
        application: its parts.
    """

    host: str
    port: int
    application: Application

    @property
    def target(self) -> str:
        """Address for clients: 'host:port'."""
        return address_of(self.host, self.port)


async def serve(settings: Settings) -> bool:
    """Serves until SIGTERM or SIGINT, then finishes running calls and returns.

    Returns:
        Whether everything has ended; False while an engine run hangs, whose thread would keep the process alive.

    Raises:
        StartError: the server cannot start.
    """
    keep_freed_memory()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    logger.info("settings: %s", settings.describe())
    async with running_server(settings) as server:
        logger.info(
            "serving %s with %s on %s",
            ", ".join(server.application.manifest.systems),
            server.application.runner.description,
            server.target,
        )
        await stop.wait()
        logger.info("stopping: no new calls, finishing those that run")
    ended = not (server.application.runner.hanging or server.application.decoding.slow)
    logger.info("stopped" if ended else "stopped, but for an engine run that hangs")
    return ended


@asynccontextmanager
async def running_server(
    settings: Settings, engine: Engine | None = None, tracer: Tracer | None = None
) -> AsyncIterator[RunningServer]:
    """A server within a program; on exit, it stops accepting calls, finishes running ones, and closes everything.

    Args:
        settings: of the server; port 0 takes a free one.
        engine: runs the models instead of ONNX Runtime in this process.
        tracer: records spans instead of the one that the settings name.

    Raises:
        StartError: the server cannot start.
    """
    async with AsyncExitStack() as stack:
        tracer = tracer or await stack.enter_async_context(open_tracer(settings))
        application = await stack.enter_async_context(open_application(settings, engine, tracer))
        if settings.metrics_port:
            _start_metrics(settings, application, stack)
        shutdown = Shutdown()
        calls = CallInterceptor(
            application.metrics,
            settings.max_in_flight,
            shutdown,
            tracer,
            memory=MessageMemory(settings.message_memory_bytes, settings.max_message_bytes),
            logged_share=settings.logged_calls,
        )
        streams = StreamLimitInterceptor()
        access = access_of(settings, application.metrics)
        server = grpc.aio.server(
            interceptors=(calls, streams) if access is None else (access, calls, streams),
            options=server_options(settings),
        )
        _add_services(server, application, settings, shutdown)
        probes = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(probes, server)
        if settings.reflection:
            add_reflection(server, (*SERVICES, health.SERVICE_NAME))
        port = listen(server, settings)
        if certificates := [path for path in (settings.tls_certificate, settings.tls_client_authority) if path]:
            application.metrics.watch_certificates(partial(earliest_expiry, certificates))
        await server.start()
        if settings.health_port:
            stack.push_async_callback((await health_server(settings, probes)).stop, None)
        application.background.start("health", lambda: _report_health(application, probes))
        if access is not None:
            application.background.start("tokens", access.watch)
        try:
            yield RunningServer(settings.host, port, application)
        finally:
            await application.background.close()
            await probes.enter_graceful_shutdown()
            with suppress(TimeoutError):
                await asyncio.wait_for(shutdown.drain(), settings.drain_seconds)
            await server.stop(FLUSH_SECONDS)


def _add_services(server: grpc.aio.Server, application: Application, settings: Settings, shutdown: Shutdown) -> None:
    """Adds the services of cape.v1."""
    pose = PoseService(
        application.estimation,
        default_deadline=settings.default_deadline_seconds,
        max_batch_items=settings.max_batch_items,
        batch_concurrency=settings.batch_concurrency,
        stream_concurrency=settings.stream_concurrency,
        metrics=application.metrics,
        shutdown=shutdown,
    )
    support = SupportService(application.supports, default_deadline=settings.default_deadline_seconds)
    model = ModelService(
        application.manifest,
        application.performance,
        default_system=application.default_system,
        engine=application.runner.description,
        limits=_limits(settings),
    )
    pose_service_pb2_grpc.add_PoseServiceServicer_to_server(pose, server)
    support_service_pb2_grpc.add_SupportServiceServicer_to_server(support, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(model, server)


def _limits(settings: Settings) -> model_service_pb2.RequestLimits:
    """What ListModels says about requests."""
    return model_service_pb2.RequestLimits(
        max_boxes=settings.max_boxes,
        max_batch_items=settings.max_batch_items,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_message_bytes=settings.max_message_bytes,
        max_answer_bytes=settings.max_answer_bytes,
    )


def _start_metrics(settings: Settings, application: Application, stack: AsyncExitStack) -> None:
    """Serves the metrics to Prometheus until the stack unwinds."""
    try:
        server = MetricsServer(settings.metrics_port, settings.host, application.metrics.registry)
    except OSError as error:
        address = address_of(settings.host, settings.metrics_port)
        raise StartError(f"cannot listen on {address} for metrics: {error.strerror}") from None
    stack.callback(server.close)


async def _report_health(application: Application, probes: health.aio.HealthServicer) -> None:
    """Keeps the health service up to date: readiness, liveness, and the registry."""
    reported: dict[str, bool] = {}
    while True:
        ready = application.ready
        now = {"": ready, **dict.fromkeys(SERVICES, ready), LIVENESS: not application.hanging}
        now[REGISTRY] = application.supports.registry_health == "ok"
        for service, serving in now.items():
            if reported.get(service) != serving:
                await probes.set(service, STATUSES[serving])
        reported = now
        await asyncio.sleep(HEALTH_SECONDS)
