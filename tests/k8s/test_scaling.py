"""What autoscalers read is what the rules record."""

from __future__ import annotations

import re

import pytest
import yaml

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
def test_autoscalers_read_what_the_adapter_offers_and_scale_what_is_there(
    built: dict[str, list[dict]], overlay: str
) -> None:
    offered = {rule["name"]["as"] for rule in adapter_rules()}
    for scaler in of_kind(built[overlay], "HorizontalPodAutoscaler"):
        asked = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"}
        assert asked
        assert asked <= offered
        target = scaler["spec"]["scaleTargetRef"]
        assert named(built[overlay], target["kind"], target["name"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keda_asks_for_recorded_series(built: dict[str, list[dict]], overlay: str) -> None:
    for scaler in of_kind(built[overlay], "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            assert set(re.findall(r"capeserve:[\w:]+", trigger["metadata"]["query"])) <= RECORDED
        assert named(built[overlay], "Deployment", scaler["spec"]["scaleTargetRef"]["name"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_one_scales_and_it_leaves_the_least_that_a_rollout_needs(
    built: dict[str, list[dict]], overlay: str
) -> None:
    scalers = of_kind(built[overlay], "HorizontalPodAutoscaler", "ScaledObject")
    assert len(scalers) == (0 if overlay == "dev" else 1)
    fixed = "replicas" in named(built[overlay], "Deployment", "capeserve")["spec"]
    assert fixed == (overlay == "dev"), "a number of replicas would set the autoscaler back at every apply"
    for scaler in scalers:
        assert scaler["spec"].get("minReplicas", scaler["spec"].get("minReplicaCount")) >= 2
