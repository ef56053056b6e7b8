"""The Helm chart renders what the kustomize overlays render, and rejects values that it does not know."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s.kubernetes_objects import named, of_kind, service_container
from tests.k8s.manifest_files import K8S

CHART = K8S / "chart"
PRESETS = ("cpu", "gpu", "secure")


def rendered(helm: Path, *options: str, namespace: str = "capeserve") -> list[dict]:
    """The objects that `helm install` would create."""
    finished = subprocess.run(
        [helm, "template", "release", str(CHART), "--namespace", namespace, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return [item for item in yaml.safe_load_all(finished.stdout) if item]


def by_name(objects: list[dict]) -> dict[tuple[str, str], dict]:
    """Objects by kind and name; Jobs without the hash that the chart adds."""
    found = {}
    for item in objects:
        if item["kind"] == "Job":
            item["metadata"]["name"] = re.sub("-[0-9a-f]{8}$", "", item["metadata"]["name"])
        found[item["kind"], item["metadata"]["name"]] = item
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_chart_and_overlay_render_the_same_objects(helm: Path, built: dict[str, list[dict]], preset: str) -> None:
    overlay = {key: item for key, item in by_name(built[preset]).items() if key[0] != "Namespace"}
    assert by_name(rendered(helm, "--set", f"preset={preset}")) == overlay, "run k8s/chart/build.py"


def test_values_reach_the_objects(helm: Path) -> None:
    objects = rendered(
        helm,
        *("--set", "preset=secure", "--set", "settings.CAPESERVE_LOG_LEVEL=debug", "--set", "images.capeserve=own:1"),
        *("--set", "autoscaling.maxReplicas=3", "--set", "resources.capeserve.limits.memory=9Gi"),
        namespace="elsewhere",
    )
    assert {item["metadata"]["namespace"] for item in objects} == {"elsewhere"}
    container = service_container(objects)
    assert container["image"] == "own:1"
    assert container["resources"] == {"limits": {"memory": "9Gi"}}
    (config,) = [item for item in of_kind(objects, "ConfigMap") if "CAPESERVE_REPOSITORY" in item["data"]]
    assert config["data"]["CAPESERVE_LOG_LEVEL"] == "debug"
    annotations = named(objects, "Deployment", "capeserve")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["checksum/settings"] == hashlib.sha256(b'{"CAPESERVE_LOG_LEVEL":"debug"}').hexdigest()
    (scaler,) = of_kind(objects, "ScaledObject")
    assert scaler["spec"]["maxReplicaCount"] == 3
    assert 'namespace="elsewhere"' in scaler["spec"]["triggers"][0]["metadata"]["query"]


@pytest.mark.parametrize("wrong", ["preset=tpu", "setings.A=b", "settings.LOG=debug", "autoscaling.maxReplicas=x"])
def test_unknown_values_are_rejected(helm: Path, wrong: str) -> None:
    finished = subprocess.run(
        [helm, "template", "release", str(CHART), "--set", wrong], capture_output=True, text=True, check=False
    )
    assert finished.returncode != 0
    assert "values" in finished.stderr
