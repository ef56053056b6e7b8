"""Autoscalers read recorded series, which rise under overload and bring enough replicas."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.k8s.hpa import desired_replicas, quantity
from tests.k8s.kubernetes_objects import named, of_kind
from tests.k8s.manifest_files import K8S, OVERLAYS
from tests.k8s.test_rules import rules

ADAPTER = K8S / "components" / "autoscaling" / "prometheus_adapter_values.yaml"
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def adapter_rules() -> list[dict]:
    return yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]


def test_the_adapter_reads_recorded_series() -> None:
    for rule in adapter_rules():
        assert re.search(r'__name__="([^"]+)"', rule["seriesQuery"])[1] in RECORDED


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_autoscalers_read_metrics_of_the_adapter_and_scale_an_existing_deployment(
    built: dict[str, list[dict]], overlay: str
) -> None:
    offered = {rule["name"]["as"] for rule in adapter_rules()}
    for scaler in of_kind(built[overlay], "HorizontalPodAutoscaler"):
        asked = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"}
        assert "capeserve_load" in asked
        assert asked <= offered
        target = scaler["spec"]["scaleTargetRef"]
        assert named(built[overlay], target["kind"], target["name"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keda_asks_for_recorded_series_of_its_own_namespace_and_never_scales_down_blindly(
    built: dict[str, list[dict]], overlay: str
) -> None:
    for scaler in of_kind(built[overlay], "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            query = trigger["metadata"]["query"]
            assert set(re.findall(r"capeserve:[\w:]+", query)) <= RECORDED
            assert f'namespace="{scaler["metadata"]["namespace"]}"' in query
            assert trigger["metadata"]["ignoreNullValues"] == "false", "no data would read as no load"
        assert scaler["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert named(built[overlay], "Deployment", scaler["spec"]["scaleTargetRef"]["name"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_autoscaler_owns_the_number_of_replicas(built: dict[str, list[dict]], overlay: str) -> None:
    scalers = of_kind(built[overlay], "HorizontalPodAutoscaler", "ScaledObject")
    assert len(scalers) == (0 if overlay == "dev" else 1)
    fixed = "replicas" in named(built[overlay], "Deployment", "capeserve")["spec"]
    assert fixed == (overlay == "dev"), "a number of replicas would reset the autoscaler's at every apply"
    for scaler in scalers:
        assert scaler["spec"].get("minReplicas", scaler["spec"].get("minReplicaCount")) >= 2


def load(offered: float, replicas: int) -> float:
    """`capeserve:load:ratio2m` of each pod, when `offered` engines' worth of work is spread over the replicas.

    Admission control runs what fits and refuses the rest: the engine's busy share stops at 1 there.
    """
    share = offered / replicas
    busy, refused = min(share, 1.0), max(0.0, 1 - 1 / share)
    return busy / (1 - min(refused, 0.9))


@pytest.mark.parametrize("offered", [0.5, 2.0, 6.0, 7.9])
def test_a_simulated_autoscaler_settles_where_nothing_is_refused(built: dict[str, list[dict]], offered: float) -> None:
    (scaler,) = of_kind(built["cpu"], "HorizontalPodAutoscaler")
    spec = scaler["spec"]
    (metric,) = spec["metrics"]
    target = quantity(metric["pods"]["target"]["averageValue"])
    replicas, history = spec["minReplicas"], []
    for _ in range(10):
        wanted = desired_replicas(
            [load(offered, replicas)] * replicas, target, least=spec["minReplicas"], most=spec["maxReplicas"]
        )
        replicas = min(wanted, 2 * replicas)  # the policy allows 100 % more a minute
        history.append(replicas)
    assert history[-1] == history[-2], f"it swings: {history}"
    assert offered / replicas < 1, "work is refused for ever"
    assert replicas == spec["minReplicas"] or offered / (replicas - 1) > target - 0.1, "a replica is idle"


def test_queue_wait_would_scale_in_under_the_same_overload() -> None:
    # Measured at three times the capacity with deadlines: 84 % of the calls refused, p95 of the wait 0.039 s.
    assert desired_replicas([0.039] * 4, 0.1, least=2, most=12) == 2
    assert desired_replicas([load(12, 4)] * 4, 0.7, least=2, most=32) > 12
