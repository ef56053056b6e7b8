"""What the service tells Prometheus.

| name | type | labels | what it counts |
|---|---|---|---|
| `capeserve_requests_total` | counter | method, code | finished requests, by RPC and gRPC status |
| `capeserve_request_duration_seconds` | histogram | method | from arrival to answer |
| `capeserve_requests_in_flight` | gauge | method | requests being worked on |
| `capeserve_instances_total` | counter | model | objects answered (boxes of successful queries) |
| `capeserve_stage_duration_seconds` | histogram | stage | the stages of a query, waiting included |
| `capeserve_queue_depth` | gauge | component | rows waiting for the engine |
| `capeserve_queue_wait_seconds` | histogram | component | how long a row waited before its batch ran |
| `capeserve_queue_dropped_total` | counter | component, reason | rows that left unserved |
| `capeserve_batch_size` | histogram | component | rows per engine run |
| `capeserve_engine_run_duration_seconds` | histogram | component | one engine run |
| `capeserve_engine_errors_total` | counter | component | engine runs that failed |
| `capeserve_engine_healthy` | gauge | | 0 while an engine run hangs |
| `capeserve_callers_refused_total` | counter | reason | calls over a limit of their token, or without one |
| `capeserve_registry_healthy` | gauge | | 0 while the support registry cannot be read or written |
| `capeserve_cache_hits_total` | counter | cache | lookups answered from the cache |
| `capeserve_cache_misses_total` | counter | cache | lookups that had to compute |
| `capeserve_cache_shared_total` | counter | cache | lookups that joined a computation under way |
| `capeserve_cache_evictions_total` | counter | cache | entries pushed out by newer ones |
| `capeserve_cache_size_bytes` | gauge | cache | bytes held now |
| `capeserve_cache_entries` | gauge | cache | entries held now |
| `capeserve_model_info` | gauge, 1 | model, version, backbone, precision | what is served |
| `capeserve_build_info` | gauge, 1 | version, engine | what serves it |

Every label is bounded: methods, codes, stages, components, caches and models are all known at start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cape.manifest import Manifest
from service.batching import BatchObserver
from service.caches import CacheStatistics

Stage = Literal["decode", "prepare", "support", "backbone", "decoder", "queue"]
"""The stages of a query, as `cape.v1.Timing` names them."""

STAGES: tuple[Stage, ...] = get_args(Stage)

DURATION_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds: 1 ms to 10 s, three a decade."""

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Rows per batch."""


class CountsItself(Protocol):
    """A cache that can say how it fares."""

    @property
    def statistics(self) -> CacheStatistics:
        """Counts since the start, and what is held now."""


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
        self._in_flight = Gauge(
            "capeserve_requests_in_flight", "Requests being worked on", ("method",), registry=registry
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
        self._callers_refused = Counter(
            "capeserve_callers_refused",
            "Calls over a limit of their token, or without one",
            ("reason",),
            registry=registry,
        )
        self._registry_healthy = Gauge(
            "capeserve_registry_healthy", "0 while the support registry cannot be read or written", registry=registry
        )
        self._registry_healthy.set(1)
        self._caches = _CacheCollector()
        registry.register(self._caches)
        self._describe(manifest, version, engine)

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
            precision = manifest.components[system.components["image_backbone"]].precision
            model.labels(name, manifest.version(name), system.backbone, precision).set(1)

    def watch_cache(self, name: str, cache: CountsItself) -> None:
        """Reports a cache's statistics under `name` whenever Prometheus asks."""
        self._caches.caches[name] = cache

    def request_started(self, method: str) -> None:
        """An RPC has arrived; `method` is its bare name: 'EstimatePose'."""
        self._in_flight.labels(method).inc()

    def request_finished(self, method: str, code: str, seconds: float) -> None:
        """An RPC that `request_started` announced is over, with the gRPC status `code`: 'OK'."""
        self._in_flight.labels(method).dec()
        self._requests.labels(method, code).inc()
        self._request_duration.labels(method).observe(seconds)

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

    def row_dropped(self, component: str, reason: str) -> None:
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

    def caller_refused(self, reason: str) -> None:
        """A caller was turned away: 'token', 'rate', 'calls' or 'size'."""
        self._callers_refused.labels(reason).inc()

    def registry_healthy(self, healthy: bool) -> None:
        """Whether the support registry can be used."""
        self._registry_healthy.set(1 if healthy else 0)


class _CacheCollector(Collector):
    """Reads the caches when asked, so that a lookup costs no metric update."""

    def __init__(self) -> None:
        self.caches: dict[str, CountsItself] = {}

    def collect(self) -> Iterator[Metric]:
        """One family per statistic, one sample per cache."""
        counters = {
            "hits": "Lookups answered from the cache",
            "misses": "Lookups that had to compute",
            "shared": "Lookups that joined a computation under way",
            "evictions": "Entries pushed out by newer ones",
        }
        gauges = {"bytes": ("size_bytes", "Bytes held"), "entries": ("entries", "Entries held")}
        statistics = {name: cache.statistics for name, cache in self.caches.items()}
        for field, text in counters.items():
            counter = CounterMetricFamily(f"capeserve_cache_{field}", text, labels=["cache"])
            for name, counts in statistics.items():
                counter.add_metric([name], getattr(counts, field))
            yield counter
        for field, (suffix, text) in gauges.items():
            gauge = GaugeMetricFamily(f"capeserve_cache_{suffix}", text, labels=["cache"])
            for name, counts in statistics.items():
                gauge.add_metric([name], getattr(counts, field))
            yield gauge
