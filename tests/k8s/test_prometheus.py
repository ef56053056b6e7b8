"""A real Prometheus scrapes a real service under traffic, and every expression that we show or alert on has data."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from cape.v1 import support_service_pb2
from tests.k8s.manifest_files import DASHBOARD
from tests.k8s.prometheus_server import Prometheus, free_port, running_prometheus
from tests.k8s.test_rules import rules
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


def alert_operands() -> dict[str, str]:
    """What each alert compares, so that it has a value whether or not the alert fires."""
    found = {}
    for rule in rules():
        if "alert" in rule:
            for index, part in enumerate(re.split(r"\band on \(\)", rule["expr"])):
                inner = re.sub(r"^absent\((.*)\)$", r"\1", part.strip())
                comparison = re.compile(r" (>|<|==) ([\d.]+)$")
                assert comparison.search(inner), f"{rule['alert']}: no comparison in {inner!r}"
                found[f"{rule['alert']} {index}"] = comparison.sub(r" \1 bool \2", inner)
    return found


def of_triton(expression: str) -> bool:
    return "nv_" in expression or "triton" in expression


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
    with (
        LiveServer(settings_for(tiny_repository, metrics_port=port)) as server,
        traffic(server),
        running_prometheus(
            prometheus, tmp_path_factory.mktemp("prometheus"), rules_file, {"capeserve": f"127.0.0.1:{port}"}
        ) as scraping,
    ):
        assert scraping.wait_for("capeserve:queue_wait_seconds:p95_2m > 0")
        yield scraping


def test_every_curve_of_the_dashboard_has_data(watched: Prometheus) -> None:
    expressions = {title: text for title, text in panel_expressions().items() if not of_triton(text)}
    assert len(expressions) > 20
    assert {title for title, text in expressions.items() if not watched.wait_for(text)} == set()


def test_every_recording_rule_has_data(watched: Prometheus) -> None:
    names = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for name in names if not of_triton(name) and not watched.wait_for(name)} == set()


def test_every_alert_compares_something_that_is_there(watched: Prometheus) -> None:
    operands = {name: text for name, text in alert_operands().items() if not of_triton(text)}
    assert {name for name, text in operands.items() if not watched.wait_for(text)} == set()


def test_nothing_but_a_slow_machine_is_alerted_while_all_is_well(watched: Prometheus) -> None:
    health = {alert["labels"]["alertname"] for alert in watched.get("alerts")["alerts"]}
    assert not health & {
        *("CapeserveAbsent", "CapeserveTargetDown", "CapeserveServerErrors", "CapeserveEngineUnhealthy"),
        *("CapeserveEngineErrors", "CapeserveRegistryErrors", "CapeserveFilesRunOut", "CapeserveVersionsDiffer"),
    }


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
        expressions = panel_expressions() | alert_operands()
        ours = {name: text for name, text in expressions.items() if of_triton(text)}
        assert len(ours) == 2
        assert {name for name, text in ours.items() if not scraping.wait_for(text)} == set()
