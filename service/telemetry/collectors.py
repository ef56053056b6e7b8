"""Metrics that are computed when Prometheus asks, so that requests do not have to update them.

They are read in a thread of the metrics server, so everything read here must be thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.caches import CacheStatistics
from service.telemetry.performance import SystemPerformance


class CountsItself(Protocol):
    """A cache with statistics."""

    @property
    def statistics(self) -> CacheStatistics:
        """Counts since the start, and current size."""


class CacheCollector(Collector):
    """Statistics of the caches.

    Attributes:
        caches: by the value of their label.
    """

    def __init__(self) -> None:
        self.caches: dict[str, CountsItself] = {}

    def collect(self) -> Iterator[Metric]:
        """One family per statistic, one sample per cache."""
        counters = {
            "hits": "Lookups answered from the cache",
            "misses": "Lookups that had to compute",
            "shared": "Lookups that joined a running computation",
            "evictions": "Entries removed to make room",
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


class PerformanceCollector(Collector):
    """The figures of GetPerformanceReport.

    Attributes:
        report: returns the figures of every system; None until the server is complete.
    """

    def __init__(self) -> None:
        self.report: Callable[[], Sequence[SystemPerformance]] | None = None

    def collect(self) -> Iterator[Metric]:
        """One family per figure, one sample per system that has it."""
        rate = GaugeMetricFamily(
            "capeserve_model_frames_per_second", "Objects answered a second, last 5 minutes", labels=["model"]
        )
        busy = GaugeMetricFamily(
            "capeserve_model_busy_frames_per_second",
            "Objects answered per second of the time in which requests were being answered, last 5 minutes",
            labels=["model"],
        )
        ratio = GaugeMetricFamily(
            "capeserve_model_speed_ratio",
            "The paper's time ÷ median of warm requests with one box, above 1 is faster",
            labels=["model"],
        )
        paper = GaugeMetricFamily(
            "capeserve_paper_frames_per_second", "The paper's throughput on an RTX 3060", labels=["model"]
        )
        time = GaugeMetricFamily(
            "capeserve_paper_inference_seconds", "The paper's time of a query on an RTX 3060", labels=["model"]
        )
        for system in self.report() if self.report is not None else ():
            rate.add_metric([system.system], system.frames_per_second)
            busy.add_metric([system.system], system.busy_frames_per_second)
            if system.speed_ratio is not None:
                ratio.add_metric([system.system], system.speed_ratio)
            if system.paper is not None:
                paper.add_metric([system.system], system.paper.frames_per_second)
                time.add_metric([system.system], system.paper.seconds)
        yield from (rate, busy, ratio, paper, time)
