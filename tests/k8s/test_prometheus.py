"""A real Prometheus scrapes a real service: panels and rules have data, and an overload scales out."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from benchmarks.harness.null_engine import NullEngine
from cape.manifest import MANIFEST_NAME, read_manifest
from cape.v1 import support_service_pb2
from service.engines.base import Tensors
from tests.k8s.hpa import desired_replicas, quantity
from tests.k8s.kubernetes_objects import of_kind
from tests.k8s.manifest_files import DASHBOARD
from tests.k8s.prometheus_server import Prometheus, free_port, running_prometheus
from tests.k8s.test_rules import rules
from tests.k8s.test_scaling import adapter_rules
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import cat_support, query

WINDOWS = {"$__rate_interval": "10s", "$namespace": ".*", "$pod": ".*"}
"""What Grafana would put for its variables."""


def panel_expressions() -> dict[str, str]:
    """PromQL of every curve, by the title of its panel and its legend."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in WINDOWS.items():
                expression = expression.replace(variable, value)
            found[f"{panel['title']}: {target['legendFormat']}"] = expression
    return found


ELSEWHERE = re.compile(r"kube_|nv_|capeserve_tenant_|capeserve_certificate_")
"""Metrics of kube-state-metrics and Triton, and those that a server has only with tokens or TLS."""


def alert_metrics() -> dict[str, set[str]]:
    """Names of the series that each alert reads."""
    return {
        rule["alert"]: set(re.findall(r"\b(?:capeserve[_:]|process_|nv_|kube_|up\b)[\w:]*", rule["expr"]))
        for rule in rules()
        if "alert" in rule
    }


def of_triton(expression: str) -> bool:
    return "nv_" in expression or "triton" in expression.lower()


@contextmanager
def traffic(server: LiveServer) -> Iterator[None]:
    """Calls of every kind until the block is left: warm, cold, and wrong ones."""
    stop = threading.Event()
    support = server.supports.CreateSupport(support_service_pb2.CreateSupportRequest(support=cat_support())).support

    def call() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            server.poses.EstimatePose(query(support=support.name))
            if count % 10 == 0:
                server.poses.EstimatePose(query(inline_support=cat_support(seed=count)))
                server.supports.GetSupport(support_service_pb2.GetSupportRequest(name=support.name))
                with pytest.raises(grpc.RpcError):
                    server.poses.EstimatePose(query(b"no image", support=support.name))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        stop.set()
        caller.join()


@pytest.fixture(scope="module")
def watched(
    prometheus: str, rules_file: Path, tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus beside a service whose models run in its process."""
    port = free_port()
    # Of the published size, by its own account: only then do the metrics have the paper's figures.
    repository = Path(shutil.copytree(tiny_repository, tmp_path_factory.mktemp("published") / "flf"))
    manifest = json.loads((repository / MANIFEST_NAME).read_text())
    manifest["systems"]["flf"]["parameters"] = 195_715_000
    (repository / MANIFEST_NAME).write_text(json.dumps(manifest))
    with (
        LiveServer(settings_for(repository, metrics_port=port)) as server,
        traffic(server),
        running_prometheus(
            prometheus, tmp_path_factory.mktemp("prometheus"), rules_file, {"capeserve": f"127.0.0.1:{port}"}
        ) as scraping,
    ):
        assert scraping.wait_for("capeserve:queue_wait_seconds:p95_2m > 0")
        yield scraping


def test_every_curve_of_the_dashboard_has_data(watched: Prometheus) -> None:
    expressions = {
        title: text for title, text in panel_expressions().items() if not ELSEWHERE.search(text) and not of_triton(text)
    }
    assert len(expressions) > 20
    assert {title for title, text in expressions.items() if not watched.wait_for(text)} == set()


def test_every_recording_rule_has_data(watched: Prometheus) -> None:
    names = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for name in names if not of_triton(name) and not watched.wait_for(name)} == set()


def test_every_alert_reads_series_that_exist(watched: Prometheus) -> None:
    names = {name for names in alert_metrics().values() for name in names if not ELSEWHERE.match(name)}
    assert len(names) > 15
    assert {name for name in names if not watched.wait_for(f'{{__name__="{name}"}}')} == set()


def test_a_healthy_service_raises_no_alert_but_those_of_a_slow_machine(watched: Prometheus) -> None:
    health = {alert["labels"]["alertname"] for alert in watched.get("alerts")["alerts"]}
    assert not {name for name in health if "Slow" not in name and "Latency" not in name}


def test_prometheus_evaluates_every_rule_without_errors(watched: Prometheus) -> None:
    groups = watched.get("rules")["groups"]
    states = {rule["name"]: rule.get("lastError", "") for group in groups for rule in group["rules"]}
    assert len(states) == len(rules())
    assert {name: error for name, error in states.items() if error} == {}


@pytest.mark.slow
def test_what_is_shown_of_triton_has_data_from_a_real_one(
    prometheus: str, rules_file: Path, triton, triton_repository: Path, tmp_path: Path
) -> None:
    settings = settings_for(triton_repository, engine="triton", triton_url=triton.grpc)
    with (
        LiveServer(settings) as server,
        traffic(server),
        running_prometheus(prometheus, tmp_path, rules_file, {"triton": triton.metrics}) as scraping,
    ):
        assert scraping.wait_for("capeserve:triton_queue_wait_seconds:mean_2m > 0")
        assert scraping.wait_for("capeserve:engine_busy:ratio2m > 0")
        expressions = panel_expressions() | {
            name: f'{{__name__="{name}"}}' for names in alert_metrics().values() for name in names
        }
        ours = {name: text for name, text in expressions.items() if of_triton(text)}
        assert len(ours) == 2
        assert {name for name, text in ours.items() if not scraping.wait_for(text)} == set()


class LimitedEngine(NullEngine):
    """Runs one crop in 20 ms, however large the batch: 50 queries a second."""

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        if component.endswith("backbone"):
            time.sleep(0.02 * len(next(iter(inputs.values()))))
        return super().run(component, inputs, outputs)


@contextmanager
def overload(server: LiveServer, per_second: float) -> Iterator[None]:
    """Calls at a fixed rate, each with a deadline, whatever becomes of them, until the block is left."""
    stop = threading.Event()
    support = server.supports.CreateSupport(support_service_pb2.CreateSupportRequest(support=cat_support())).support
    request = query(support=support.name)

    # gRPC cancels a call whose future is dropped.
    kept: deque[grpc.Future] = deque(maxlen=1000)

    def call() -> None:
        while not stop.wait(1 / per_second):
            kept.append(server.poses.EstimatePose.future(request, timeout=0.3))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        stop.set()
        caller.join()


def test_under_overload_the_autoscaler_asks_for_more_replicas(
    prometheus: str, rules_file: Path, tiny_repository: Path, tmp_path: Path, built: dict[str, list[dict]]
) -> None:
    (scaler,) = of_kind(built["cpu"], "HorizontalPodAutoscaler")
    spec = scaler["spec"]
    target = quantity(spec["metrics"][0]["pods"]["target"]["averageValue"])
    (recorded,) = [rule["seriesQuery"] for rule in adapter_rules() if rule["name"]["as"] == "capeserve_load"]
    series = re.search(r'__name__="([^"]+)"', recorded)[1]
    (keda,) = of_kind(built["secure"], "ScaledObject")
    keda_query = keda["spec"]["triggers"][0]["metadata"]["query"].replace('"capeserve"', '"test"')
    port = free_port()
    engine = LimitedEngine(read_manifest(tiny_repository))
    with (
        LiveServer(settings_for(tiny_repository, metrics_port=port), engine) as server,
        overload(server, per_second=150),
        running_prometheus(prometheus, tmp_path, rules_file, {"capeserve": f"127.0.0.1:{port}"}) as scraping,
    ):
        assert scraping.wait_for(f"{series} > 1.2"), scraping.values(series)
        values = scraping.values(series)
        assert desired_replicas(values, target, least=1, most=spec["maxReplicas"]) > len(values)
        assert scraping.values(keda_query)[0] > float(keda["spec"]["triggers"][0]["metadata"]["threshold"])
        # Admission control refuses the rest in time: work that is late or refused, and a short queue.
        assert scraping.values("capeserve:refused:ratio2m")[0] > 0.1
