"""What Prometheus is told, read back in its own text format."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from cape.v1 import support_pb2
from service.batching.batcher import Batcher
from service.caches import SingleFlightCache
from service.errors import (
    CallerLimitError,
    DeadlineError,
    EngineError,
    InvalidFieldError,
    MessageSizeError,
    NotFoundError,
    QueueFullError,
    StorageFullError,
    StorageQuotaError,
    UnavailableError,
)
from service.supports.registry_metrics import ObservedRegistry
from service.supports.sqlite import SqliteRegistry
from service.telemetry import metrics as module
from service.telemetry.metrics import STAGES, Metrics
from service.telemetry.outcomes import OUTCOMES, outcome_of
from service.telemetry.performance import PAPER, PerformanceMonitor
from tests.service.numpy_engine import SIZE, NumpyEngine, tiny_manifest

TABLE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(tiny_manifest(), version="1.2.3", engine="numpy")


def _samples(metrics: Metrics, family: str) -> list:
    """The samples of a family."""
    return [sample for found in metrics.registry.collect() if found.name == family for sample in found.samples]


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


def exported(metrics: Metrics) -> dict[str, tuple[str, set[str]]]:
    """Type and labels of every metric that has a sample, by the name that Prometheus knows it by."""
    found = {}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        if family.samples:
            found[name] = family.type, labels
    return found


def everything_happened(metrics: Metrics) -> None:
    """Gives every metric a sample."""
    metrics.watch_cache("texts", SingleFlightCache[str, str](max_bytes=10, size=len))
    monitor = PerformanceMonitor({"flf": PAPER["flf"]})
    monitor.record("flf", 0.02, instances=1, warm=True)
    metrics.watch_performance(monitor.report)
    metrics.request_started("EstimatePose")
    metrics.request_finished("EstimatePose", "OK", 0.02)
    metrics.item_finished("EstimatePose", "answered", "acme")
    metrics.watch_certificates(lambda: 1.8e9)
    metrics.stage_finished("decode", 0.01)
    metrics.batch_started("image_backbone", [0.001])
    metrics.run_finished("image_backbone", 0.01)
    metrics.registry_called("get", "ok", 0.001)
    metrics.background_task_started("registry")


def test_the_table_says_name_type_and_labels_of_every_metric_and_names_no_other(metrics: Metrics) -> None:
    everything_happened(metrics)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| [^|]+ \| ([\w, ]*)\|", TABLE.read_text(), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert documented == exported(metrics)


def test_the_table_of_labels_lists_every_value_of_those_that_do_not_depend_on_the_models() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| (.+) \|$", TABLE.read_text(), re.MULTILINE))
    for label, values in {
        "stage": STAGES,
        "operation": get_args(module.RegistryOperation),
        "outcome": get_args(module.RegistryOutcome),
    }.items():
        assert set(re.findall(r"\w+", re.split("[:;]", rows[label])[0])) == set(values)
    assert set(re.findall(r"(\w+) *(?:\(|,|$)", re.sub(r"\([^)]*\)", "", rows["result"]))) == set(OUTCOMES)
    dropped, refused = (set(re.findall(r"\w+", part.partition(":")[2])) for part in rows["reason"].split(";"))
    assert (dropped, refused) == (set(get_args(module.DropReason)), set(get_args(module.Refusal)))


def test_queries_are_counted_by_result_and_by_a_bounded_number_of_tenants(metrics: Metrics) -> None:
    for number in range(module.MAX_TENANTS + 2):
        metrics.item_finished("BatchEstimatePose", "answered", f"tenant-{number}")
    metrics.item_finished("EstimatePose", "refused", "")
    assert sample(metrics, "capeserve_tenant_items_total", tenant="tenant-0", result="answered") == 1
    assert sample(metrics, "capeserve_tenant_items_total", tenant="other", result="answered") == 2
    tenants = {found.labels["tenant"] for found in _samples(metrics, "capeserve_tenant_items")}
    assert tenants == {f"tenant-{number}" for number in range(module.MAX_TENANTS)} | {"other"}
    assert sample(metrics, "capeserve_items_total", method="EstimatePose", result="refused") == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, "answered"),
        (InvalidFieldError("image", "none"), "invalid"),
        (NotFoundError("cape.v1.Support", "supports/x", "none"), "invalid"),
        (CallerLimitError("rate", "too many", 1.0), "limited"),
        (MessageSizeError("too large"), "limited"),
        (QueueFullError(1.0), "refused"),
        (DeadlineError("late"), "late"),
        (asyncio.CancelledError(), "cancelled"),
        (EngineError("pose_decoder", "NaN"), "failed"),
        (UnavailableError("Redis"), "failed"),
        (RuntimeError("a bug"), "failed"),
    ],
)
def test_a_full_server_and_a_tenant_over_its_own_limit_are_told_apart(
    error: BaseException | None, expected: str
) -> None:
    assert outcome_of(error) == expected


def test_a_traced_call_is_the_exemplar_of_its_duration(metrics: Metrics) -> None:
    metrics.request_started("EstimatePose")
    metrics.request_finished("EstimatePose", "OK", 0.02, "a" * 32)
    text = openmetrics.generate_latest(metrics.registry).decode()
    (line,) = [line for line in text.splitlines() if "trace_id" in line]
    assert line.startswith("capeserve_request_duration_seconds_bucket") and "a" * 32 in line


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus")
def test_promtool_has_nothing_to_say_against_names_and_units(metrics: Metrics) -> None:
    everything_happened(metrics)
    text = generate_latest(metrics.registry)
    finished = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    ours = [line for line in finished.stderr.decode().splitlines() if "_created" not in line]
    assert ours == []


def test_what_a_caller_sends_becomes_no_label(metrics: Metrics) -> None:
    before = set(exported(metrics))
    metrics.request_started("EstimatePose")
    metrics.request_finished("EstimatePose", "NOT_FOUND", 0.1)
    assert {sample.labels["method"] for sample in _samples(metrics, "capeserve_requests")} == set(module.METHODS)
    assert before <= set(exported(metrics))


def test_errors_count_from_zero_so_that_the_first_one_is_an_increase(metrics: Metrics) -> None:
    assert sample(metrics, "capeserve_requests_total", method="EstimatePose", code="INTERNAL") == 0
    assert sample(metrics, "capeserve_engine_errors_total", component="pose_decoder") == 0
    assert sample(metrics, "capeserve_queue_dropped_total", component="image_backbone", reason="full") == 0
    assert sample(metrics, "capeserve_registry_operations_total", operation="get", outcome="error") == 0


def test_the_papers_row_stands_beside_what_was_measured(metrics: Metrics) -> None:
    monitor = PerformanceMonitor({"flf": PAPER["flf"], "visual_only": None})
    monitor.record("flf", 0.030675, instances=1, warm=True)
    metrics.watch_performance(monitor.report)
    assert sample(metrics, "capeserve_model_speed_ratio", model="flf") == pytest.approx(2)
    assert sample(metrics, "capeserve_paper_inference_seconds", model="flf") == 0.06135
    assert sample(metrics, "capeserve_model_speed_ratio", model="visual_only") is None
    assert sample(metrics, "capeserve_model_frames_per_second", model="visual_only") == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (NotFoundError("cape.v1.Support", "supports/x", "no"), "not_found"),
        (InvalidFieldError("page_token", "no"), "invalid"),
        (StorageFullError("no"), "full"),
        (StorageQuotaError("acme", 1, 1, 1), "quota"),
        (OSError("disk full"), "error"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
async def test_calls_of_the_registry_are_counted_by_what_came_of_them(
    metrics: Metrics, error: BaseException | None, outcome: str
) -> None:
    class Failing(SqliteRegistry):
        async def get(self, name: str, *, pixels: bool) -> support_pb2.Support:
            if error is not None:
                raise error
            return support_pb2.Support(name=name)

    registry = ObservedRegistry(Failing(None), metrics)
    with contextlib.suppress(type(error) if error else ()):
        assert (await registry.get("supports/x", pixels=False)).name == "supports/x"
    assert sample(metrics, "capeserve_registry_operations_total", operation="get", outcome=outcome) == 1
    assert sample(metrics, "capeserve_registry_operation_duration_seconds_count", operation="get") == 1
    await registry.close()


def test_two_servers_in_one_process_do_not_share_metrics(metrics: Metrics) -> None:
    other = Metrics(tiny_manifest(), version="1.2.3", engine="numpy")
    metrics.request_started("GetSupport")
    assert sample(other, "capeserve_requests_in_flight", method="GetSupport") == 0
