"""Helpers to find objects, pods and containers in rendered manifests."""

from __future__ import annotations

from collections.abc import Iterator


def of_kind(objects: list[dict], *kinds: str) -> list[dict]:
    """The objects of some kinds."""
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[dict], kind: str, name: str) -> dict:
    """The object of a kind whose name is, or, where kustomize adds a hash, begins with `name`."""
    found = [item for item in of_kind(objects, kind) if item["metadata"]["name"] in (name, _without_hash(item))]
    (found,) = [item for item in found if _without_hash(item) == name or item["metadata"]["name"] == name]
    return found


def _without_hash(item: dict) -> str:
    return item["metadata"]["name"].rpartition("-")[0]


def workloads(objects: list[dict]) -> list[dict]:
    """Objects that create pods."""
    return of_kind(objects, "Deployment", "StatefulSet", "Job", "CronJob")


def pod_of(workload: dict) -> dict:
    """The pod's spec."""
    return template_of(workload)["spec"]


def template_of(workload: dict) -> dict:
    """The pod template: metadata and spec."""
    spec = workload["spec"]["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else workload["spec"]
    return spec["template"]


def labels_of(workload: dict) -> dict:
    """Labels of the pods."""
    return template_of(workload)["metadata"]["labels"]


def containers(workload: dict) -> Iterator[dict]:
    """Every container of a pod, init containers included."""
    pod = pod_of(workload)
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def service_container(objects: list[dict]) -> dict:
    """The container that runs `capeserve serve`."""
    (container,) = [
        container
        for container in pod_of(named(objects, "Deployment", "capeserve"))["containers"]
        if container["name"] == "capeserve"
    ]
    return container


def matches(selector: dict, labels: dict) -> bool:
    """Whether matchLabels select an object with these labels."""
    return selector.items() <= labels.items()


def pods_that_match(objects: list[dict], selector: dict) -> list[dict]:
    """Workloads whose pods a selector selects."""
    return [item for item in workloads(objects) if matches(selector, labels_of(item))]


def port_numbers(workload: dict) -> dict[str, int]:
    """Container ports of a pod by name."""
    return {port["name"]: port["containerPort"] for item in containers(workload) for port in item.get("ports", [])}
