"""What the service tells Prometheus. docs/metrics.md explains every metric, and a test compares it with this.

Every label is bounded: methods, codes, stages, components, caches and models are all known at start. Counters whose
labels are known then begin at 0, so that the first error of a server's life is an increase and not a new series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from cape.manifest import Manifest
from cape.v1 import model_service_pb2, pose_service_pb2, support_service_pb2
from service.engines.base import BatchObserver
from service.supports.registry import Health
from service.telemetry.collectors import CacheCollector, CountsItself, PerformanceCollector
from service.telemetry.outcomes import OUTCOMES, Outcome
from service.telemetry.performance import SystemPerformance

Stage = Literal["decode", "prepare", "support", "backbone", "decoder", "queue"]
"""The stages of a query, as `cape.v1.Timing` names them."""

STAGES: tuple[Stage, ...] = get_args(Stage)

DropReason = Literal["deadline", "cancelled", "full", "engine"]
"""Why a row left unserved."""

Refusal = Literal["token", "rate", "calls", "size"]
"""Why a caller was turned away: no token, or over one of its limits."""

RegistryOperation = Literal["create", "get", "list", "delete"]
RegistryOutcome = Literal["ok", "not_found", "invalid", "quota", "full", "cancelled", "error"]
"""'invalid': a caller's page token; 'quota': a tenant's storage quota; 'error': a failure of the registry."""

ITEM_METHODS = ("BatchEstimatePose", "StreamEstimatePose")
"""Methods whose calls have several items, each with a code of its own."""

METHODS = tuple(
    method.name
    for module in (pose_service_pb2, support_service_pb2, model_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
"""Every RPC of cape.v1, by its bare name."""

DURATION_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Seconds: 1 ms to 1 min. The default deadline is 30 s, and streams and first queries may take that long."""

QUERY_METHODS = ("EstimatePose", "BatchEstimatePose", "StreamEstimatePose")
"""RPCs that carry queries: one, or many."""

MAX_TENANTS = 100
"""Values of the label `tenant`; further tenants share 'other', so that a token file cannot exhaust Prometheus."""

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Rows per batch."""


class Metrics(BatchObserver):
    """The service's metrics in a registry of their own, so that servers in one process do not meet.

    Attributes:
        registry: what an exporter serves.
    """

    def __init__(self, manifest: Manifest, *, version: str, engine: str) -> None:
        """Creates every metric.

        Args:
            manifest: what is served; gives the model labels.
            version: version of capeserve.
            engine: `Engine.description`.
        """
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter("capeserve_requests", "Finished requests", ("method", "code"), registry=registry)
        self._request_duration = Histogram(
            "capeserve_request_duration_seconds",
            "From arrival to answer",
            ("method",),
            registry=registry,
            buckets=DURATION_BUCKETS,
        )
        self._items = Counter(
            "capeserve_items",
            "Finished queries: calls, and items of batches and streams",
            ("method", "result"),
            registry=registry,
        )
        self._tenant_items = Counter(
            "capeserve_tenant_items", "Finished queries by tenant", ("tenant", "result"), registry=registry
        )
        self._tenants: set[str] = set()
        self._in_flight = Gauge(
            "capeserve_requests_in_flight", "Requests being worked on", ("method",), registry=registry
        )
        self._item_duration = Histogram(
            "capeserve_item_duration_seconds",
            "From reading an item of a batch or stream to its answer",
            ("method",),
            registry=registry,
            buckets=DURATION_BUCKETS,
        )
        self._background_failures = Counter(
            "capeserve_background_task_failures",
            "Failures of background tasks, which start again",
            ("task",),
            registry=registry,
        )
        self._instances = Counter("capeserve_instances", "Objects answered", ("model",), registry=registry)
        self._stage_duration = Histogram(
            "capeserve_stage_duration_seconds",
            "Stages of a query, waiting included",
            ("stage",),
            registry=registry,
            buckets=DURATION_BUCKETS,
        )
        self._queue_depth = Gauge(
            "capeserve_queue_depth", "Rows waiting for the engine", ("component",), registry=registry
        )
        self._queue_wait = Histogram(
            "capeserve_queue_wait_seconds",
            "How long a row waited before its batch ran",
            ("component",),
            registry=registry,
            buckets=DURATION_BUCKETS,
        )
        self._queue_dropped = Counter(
            "capeserve_queue_dropped", "Rows that left unserved", ("component", "reason"), registry=registry
        )
        self._batch_size = Histogram(
            "capeserve_batch_size",
            "Rows per engine run",
            ("component",),
            registry=registry,
            buckets=BATCH_BUCKETS,
        )
        self._run_duration = Histogram(
            "capeserve_engine_run_duration_seconds",
            "One engine run",
            ("component",),
            registry=registry,
            buckets=DURATION_BUCKETS,
        )
        self._engine_errors = Counter(
            "capeserve_engine_errors", "Engine runs that failed", ("component",), registry=registry
        )
        self._engine_healthy = Gauge("capeserve_engine_healthy", "0 while an engine run hangs", registry=registry)
        self._engine_healthy.set(1)
        self._registry_operations = Counter(
            "capeserve_registry_operations",
            "Calls of the support registry",
            ("operation", "outcome"),
            registry=registry,
        )
        self._registry_duration = Histogram(
            "capeserve_registry_operation_duration_seconds",
            "One call of the support registry",
            ("operation",),
            registry=registry,
            buckets=DURATION_BUCKETS,
        )
        self._registry_healthy = Gauge(
            "capeserve_registry_healthy", "0 while the support registry cannot be read or written", registry=registry
        )
        self._registry_healthy.set(1)
        self._registry_full = Gauge(
            "capeserve_registry_full", "1 while the support registry has no room for new supports", registry=registry
        )
        self._tokens_current = Gauge(
            "capeserve_tokens_current", "0 while the token file is missing or invalid", registry=registry
        )
        self._tokens_current.set(1)
        self._callers_refused = Counter(
            "capeserve_callers_refused",
            "Calls over a limit of their token, or without one",
            ("reason",),
            registry=registry,
        )
        self._caches = CacheCollector()
        self._performance = PerformanceCollector()
        for collector in (self._caches, self._performance):
            registry.register(collector)
        ProcessCollector(registry=registry)
        self._describe(manifest, version, engine)
        self._begin_at_zero(manifest)

    def _describe(self, manifest: Manifest, version: str, engine: str) -> None:
        build = Gauge("capeserve_build_info", "What serves", ("version", "engine"), registry=self.registry)
        build.labels(version, engine).set(1)
        model = Gauge(
            "capeserve_model_info",
            "What is served",
            ("model", "version", "backbone", "precision"),
            registry=self.registry,
        )
        for name, system in manifest.systems.items():
            precision = manifest.components[system.main_component].precision
            model.labels(name, manifest.version(name), system.backbone, precision).set(1)

    def _begin_at_zero(self, manifest: Manifest) -> None:
        for method in METHODS:
            self._in_flight.labels(method)
            for code in grpc.StatusCode:
                self._requests.labels(method, code.name)
        for method in ITEM_METHODS:
            self._item_duration.labels(method)
        for method in QUERY_METHODS:
            for outcome in OUTCOMES:
                self._items.labels(method, outcome)
        for component in manifest.components:
            self._queue_depth.labels(component)
            self._engine_errors.labels(component)
            for reason in get_args(DropReason):
                self._queue_dropped.labels(component, reason)
        for system in manifest.systems:
            self._instances.labels(system)
        for refusal in get_args(Refusal):
            self._callers_refused.labels(refusal)
        for operation in get_args(RegistryOperation):
            for outcome in get_args(RegistryOutcome):
                self._registry_operations.labels(operation, outcome)

    def watch_cache(self, name: str, cache: CountsItself) -> None:
        """Reports a cache's statistics under `name` whenever Prometheus asks."""
        self._caches.caches[name] = cache

    def watch_performance(self, report: Callable[[], Sequence[SystemPerformance]]) -> None:
        """Reports every system's figures, see `PerformanceMonitor.report`, whenever Prometheus asks."""
        self._performance.report = report

    def request_started(self, method: str) -> None:
        """An RPC has arrived; `method` is its bare name: 'EstimatePose'."""
        self._in_flight.labels(method).inc()

    def watch_certificates(self, expiry: Callable[[], float]) -> None:
        """Reports when the first of the server's certificates expires, in seconds since 1970, whenever asked."""
        gauge = Gauge(
            "capeserve_certificate_expiry_timestamp_seconds", "When TLS certificates expire", registry=self.registry
        )
        gauge.set_function(expiry)

    def request_finished(self, method: str, code: str, seconds: float, trace_id: str = "") -> None:
        """An RPC that `request_started` announced is over, with the gRPC status `code`: 'OK'.

        `trace_id` becomes the exemplar of the duration, which Prometheus reads as OpenMetrics; empty: not traced.
        """
        self._in_flight.labels(method).dec()
        self._requests.labels(method, code).inc()
        self._request_duration.labels(method).observe(seconds, {"trace_id": trace_id} if trace_id else None)

    def item_finished(self, method: str, outcome: Outcome, tenant: str) -> None:
        """A query is over: a call of EstimatePose, or an item of a batch or stream.

        Args:
            method: bare name of the RPC.
            outcome: see `Outcome`.
            tenant: of the caller's token; empty where the server asks for none.
        """
        self._items.labels(method, outcome).inc()
        if tenant:
            if tenant not in self._tenants and len(self._tenants) >= MAX_TENANTS:
                tenant = "other"
            self._tenants.add(tenant)
            self._tenant_items.labels(tenant, outcome).inc()

    def instances_answered(self, model: str, count: int) -> None:
        """A query was answered for `count` boxes; `model` is a system of the manifest."""
        self._instances.labels(model).inc(count)

    def stage_finished(self, stage: Stage, seconds: float) -> None:
        """A query spent `seconds` in a stage."""
        self._stage_duration.labels(stage).observe(seconds)

    def queue_depth(self, component: str, rows: int) -> None:
        """`rows` wait for `component` now."""
        self._queue_depth.labels(component).set(rows)

    def batch_started(self, component: str, waits: Sequence[float]) -> None:
        """A batch starts; its rows have waited for so many seconds each."""
        self._batch_size.labels(component).observe(len(waits))
        histogram = self._queue_wait.labels(component)
        for wait in waits:
            histogram.observe(wait)

    def item_dropped(self, component: str, reason: str) -> None:
        """A row has left unserved: 'deadline', 'cancelled', 'full' or 'engine'."""
        self._queue_dropped.labels(component, reason).inc()

    def run_finished(self, component: str, seconds: float) -> None:
        """The engine ran a batch in `seconds`."""
        self._run_duration.labels(component).observe(seconds)

    def run_failed(self, component: str) -> None:
        """The engine failed on a batch, or hangs."""
        self._engine_errors.labels(component).inc()

    def engine_healthy(self, healthy: bool) -> None:
        """Whether the engine answers."""
        self._engine_healthy.set(1 if healthy else 0)

    def registry_called(self, operation: RegistryOperation, outcome: RegistryOutcome, seconds: float) -> None:
        """A call of the registry is over, after `seconds`."""
        self._registry_operations.labels(operation, outcome).inc()
        self._registry_duration.labels(operation).observe(seconds)

    def registry_health(self, health: Health) -> None:
        """Reports whether the support registry can be used, and whether it has room."""
        self._registry_healthy.set(0 if health == "unavailable" else 1)
        if health != "unavailable":
            self._registry_full.set(1 if health == "full" else 0)

    def item_timed(self, method: str, seconds: float) -> None:
        """Times an item of a batch or stream."""
        self._item_duration.labels(method).observe(seconds)

    def background_task_started(self, task: str) -> None:
        """Adds a background task, with no failures."""
        self._background_failures.labels(task)

    def background_task_failed(self, task: str) -> None:
        """Counts a failure of a background task."""
        self._background_failures.labels(task).inc()

    def tokens_loaded(self, current: bool) -> None:
        """Reports whether the tokens in use are those of the token file."""
        self._tokens_current.set(1 if current else 0)

    def caller_refused(self, reason: str) -> None:
        """A caller was turned away: 'token', 'rate', 'calls' or 'size'."""
        self._callers_refused.labels(reason).inc()
