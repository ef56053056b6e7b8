"""Pods are locked down, and their probes, ports and times are the program's own."""

from __future__ import annotations

import re

import pytest

from service.server import FLUSH_SECONDS, LIVENESS
from tests.k8s.kubernetes_objects import (
    containers,
    labels_of,
    matches,
    named,
    of_kind,
    pod_of,
    pods_that_match,
    port_numbers,
    service_container,
    workloads,
)
from tests.k8s.manifest_files import K8S, OVERLAYS
from tests.k8s.test_settings_of_pods import settings_of

CLOSING_SECONDS = 10
"""What may come after the drain: flushing answers, the registry, traces."""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_locked_down(built: dict[str, list[dict]], overlay: str) -> None:
    for workload in workloads(built[overlay]):
        pod = pod_of(workload)
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for container in containers(workload):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], container["name"]
            assert context["allowPrivilegeEscalation"] is False, container["name"]
            assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_says_what_it_needs_and_how_much_memory_it_may_take(
    built: dict[str, list[dict]], overlay: str
) -> None:
    for workload in workloads(built[overlay]):
        for container in containers(workload):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), container["name"]
            assert "memory" in container["resources"]["limits"], container["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_have_a_version(built: dict[str, list[dict]], overlay: str) -> None:
    for workload in workloads(built[overlay]):
        for container in containers(workload):
            assert re.search(r":(dev|v?\d[\w.-]+)(@sha256:[0-9a-f]{64})?$", container["image"]), container["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_what_the_server_answers(built: dict[str, list[dict]], overlay: str) -> None:
    container = service_container(built[overlay])
    port = settings_of(built[overlay]).health_port
    expected = {"startupProbe": {}, "readinessProbe": {}, "livenessProbe": {"service": LIVENESS}}
    for name, service in expected.items():
        assert container[name]["grpc"] == {"port": port} | service, "a port of this process alone, without TLS"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_time_to_drain(built: dict[str, list[dict]], overlay: str) -> None:
    deployment = named(built[overlay], "Deployment", "capeserve")
    before = service_container(built[overlay])["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = settings_of(built[overlay]).drain_seconds
    assert pod_of(deployment)["terminationGracePeriodSeconds"] >= before + drain + FLUSH_SECONDS + CLOSING_SECONDS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_ports_of_pods_services_and_settings_agree(built: dict[str, list[dict]], overlay: str) -> None:
    settings = settings_of(built[overlay])
    ports = port_numbers(named(built[overlay], "Deployment", "capeserve"))
    assert (ports["grpc"], ports["metrics"]) == (settings.port, settings.metrics_port)
    service = named(built[overlay], "Service", "capeserve")
    assert service["spec"]["clusterIP"] == "None", "gRPC clients must see the pods"
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == {
        "grpc": settings.port,
        "metrics": settings.metrics_port,
    }
    for service in of_kind(built[overlay], "Service"):
        (workload,) = pods_that_match(built[overlay], service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(port_numbers(workload))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_pick_the_pods_that_they_mean(built: dict[str, list[dict]], overlay: str) -> None:
    objects = built[overlay]
    deployment = named(objects, "Deployment", "capeserve")
    picked = [
        *(item["spec"]["selector"] for item in of_kind(objects, "PodDisruptionBudget", "PodMonitor")),
        *(item["labelSelector"] for item in pod_of(deployment)["topologySpreadConstraints"]),
        deployment["spec"]["selector"],
    ]
    for selector in picked:
        assert pods_that_match(objects, selector["matchLabels"]) == [deployment]
    for monitor in of_kind(objects, "ServiceMonitor"):
        labels = named(objects, "Service", "capeserve")["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert labels[monitor["spec"]["jobLabel"]] == "capeserve", "what the alerts call the job"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policies_let_in_what_is_served_and_out_what_is_called(built: dict[str, list[dict]], overlay: str) -> None:
    objects = built[overlay]
    policies = [item["spec"] for item in of_kind(objects, "NetworkPolicy")]
    for workload in workloads(objects):
        labels = labels_of(workload)
        own = [spec for spec in policies if matches(spec["podSelector"]["matchLabels"], labels)]
        assert {kind for spec in own for kind in spec["policyTypes"]} == {"Ingress", "Egress"}, workload["metadata"]
        ports = port_numbers(workload)
        let_in = {
            ports.get(port["port"], port["port"])
            for spec in own
            for rule in spec.get("ingress", [])
            for port in rule["ports"]
        }
        closed = {name for name in ports if name.startswith(("triton-grpc", "health"))}
        assert let_in == {number for name, number in ports.items() if name not in closed}
    labels = labels_of(named(objects, "Deployment", "capeserve"))
    own = [spec for spec in policies if matches(spec["podSelector"]["matchLabels"], labels)]
    called = {port["port"] for spec in own for rule in spec.get("egress", []) for port in rule["ports"]}
    mesh = {15012, 8080, 8086, 8090}
    expected = {53, 6379} | mesh | ({4317} if settings_of(objects).tracing_endpoint else set())
    assert called == expected


def test_the_images_run_as_the_user_that_the_pods_name_and_listen_where_they_expect(
    built: dict[str, list[dict]],
) -> None:
    user = pod_of(named(built["cpu"], "Deployment", "capeserve"))["securityContext"]["runAsUser"]
    settings = settings_of(built["cpu"])
    for name in ("service", "exporter"):
        text = (K8S / "containers" / f"{name}.Dockerfile").read_text()
        assert f"USER {user}:{user}" in text
        assert len(set(re.findall(r"^FROM (python:3\.11\.\d+-slim-\w+)\S* ?", text, re.MULTILINE))) == 1
    assert f"EXPOSE {settings.port} {settings.metrics_port}" in (K8S / "containers/service.Dockerfile").read_text()
