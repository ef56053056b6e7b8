"""What Prometheus is told, read back in its own text format."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest
from numpy_engine import SIZE, NumpyEngine, tiny_manifest
from prometheus_client import generate_latest

from service import metrics as module
from service.batching import Batcher
from service.caches import SingleFlightCache
from service.errors import DeadlineError, EngineError
from service.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(tiny_manifest(), version="1.2.3", engine="numpy")


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def test_a_batch_is_counted_with_its_rows_and_their_waiting(metrics: Metrics) -> None:
    engine = NumpyEngine()
    batcher = Batcher(engine, tiny_manifest(), observer=metrics)
    inputs = {"image": np.zeros((SIZE, SIZE, 3), dtype=np.uint8)}
    rows = [batcher.submit("image_backbone", inputs, ["features"]) for _ in range(3)]
    await asyncio.gather(*rows)
    backbone = {"component": "image_backbone"}
    assert sample(metrics, "capeserve_batch_size_sum", **backbone) == 3
    assert sample(metrics, "capeserve_batch_size_count", **backbone) == 1
    assert sample(metrics, "capeserve_queue_wait_seconds_count", **backbone) == 3
    assert sample(metrics, "capeserve_engine_run_duration_seconds_count", **backbone) == 1
    assert sample(metrics, "capeserve_queue_depth", **backbone) == 0


async def test_failures_and_rows_that_leave_are_counted(metrics: Metrics) -> None:
    engine = NumpyEngine()
    batcher = Batcher(engine, tiny_manifest(), observer=metrics)
    inputs = {"image": np.zeros((SIZE, SIZE, 3), dtype=np.uint8)}
    with pytest.raises(DeadlineError):
        await batcher.submit("image_backbone", inputs, ["features"], asyncio.get_running_loop().time() - 1)
    engine.error = EngineError("image_backbone", "out of memory")
    with pytest.raises(EngineError):
        await batcher.submit("image_backbone", inputs, ["features"])
    dropped = {"component": "image_backbone", "reason": "deadline"}
    assert sample(metrics, "capeserve_queue_dropped_total", **dropped) == 1
    assert sample(metrics, "capeserve_engine_errors_total", component="image_backbone") == 1


async def test_a_caches_counts_are_read_when_prometheus_asks(metrics: Metrics) -> None:
    cache: SingleFlightCache[str, str] = SingleFlightCache(max_bytes=10, size=len)
    metrics.watch_cache("texts", cache)

    async def value() -> str:
        return "12345678"

    for key in ("a", "a", "b"):
        await cache.get(key, value)
    texts = {"cache": "texts"}
    assert sample(metrics, "capeserve_cache_hits_total", **texts) == 1
    assert sample(metrics, "capeserve_cache_misses_total", **texts) == 2
    assert sample(metrics, "capeserve_cache_evictions_total", **texts) == 1
    assert sample(metrics, "capeserve_cache_size_bytes", **texts) == 8
    assert sample(metrics, "capeserve_cache_entries", **texts) == 1


def test_requests_are_counted_by_method_and_code(metrics: Metrics) -> None:
    metrics.request_started("EstimatePose")
    assert sample(metrics, "capeserve_requests_in_flight", method="EstimatePose") == 1
    metrics.request_finished("EstimatePose", "INVALID_ARGUMENT", 0.004)
    assert sample(metrics, "capeserve_requests_in_flight", method="EstimatePose") == 0
    labels = {"method": "EstimatePose", "code": "INVALID_ARGUMENT"}
    assert sample(metrics, "capeserve_requests_total", **labels) == 1
    assert sample(metrics, "capeserve_request_duration_seconds_bucket", method="EstimatePose", le="0.005") == 1
    assert sample(metrics, "capeserve_request_duration_seconds_bucket", method="EstimatePose", le="0.002") == 0


def test_what_serves_and_what_is_served_can_be_read(metrics: Metrics) -> None:
    version = tiny_manifest().version("flf")
    model = {"model": "flf", "version": version, "backbone": "none", "precision": "float32"}
    assert sample(metrics, "capeserve_model_info", **model) == 1
    assert sample(metrics, "capeserve_build_info", version="1.2.3", engine="numpy") == 1


def test_every_metric_is_in_the_table_and_the_table_names_no_other(metrics: Metrics) -> None:
    metrics.watch_cache("texts", SingleFlightCache[str, str](max_bytes=10, size=len))
    text = generate_latest(metrics.registry).decode()
    exported = {name for name in re.findall(r"^# TYPE (\w+)", text, re.MULTILINE) if not name.endswith("_created")}
    documented = set(re.findall(r"^\| `(\w+)`", module.__doc__ or "", re.MULTILINE))
    assert exported == documented


def test_two_servers_in_one_process_do_not_share_metrics(metrics: Metrics) -> None:
    other = Metrics(tiny_manifest(), version="1.2.3", engine="numpy")
    metrics.request_started("GetSupport")
    assert sample(other, "capeserve_requests_in_flight", method="GetSupport") is None
