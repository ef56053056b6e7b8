"""The environment of the pods is what the server accepts."""

from __future__ import annotations

import math
import os
from unittest import mock

import pytest

from service.settings import ENVIRONMENT_PREFIX, Settings, load_settings
from tests.k8s.kubernetes_objects import named, of_kind, pod_of, service_container, workloads
from tests.k8s.manifest_files import OVERLAYS, ROOT


def environment_of(objects: list[dict]) -> dict[str, str]:
    """The service's environment variables; values from secrets are 'secret'."""
    container = service_container(objects)
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        (config,) = [
            item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"] == source["configMapRef"]["name"]
        ]
        found |= config["data"]
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        if "resourceFieldRef" in source:
            kind, _, resource = source["resourceFieldRef"]["resource"].partition(".")
            value = str(max(1, math.ceil(cores(container["resources"][kind][resource]))))
        else:
            value = variable.get("value", "secret")
        for name, known in found.items():
            value = value.replace(f"$({name})", known)
        found[variable["name"]] = value
    return found


def cores(quantity: str) -> float:
    """A CPU quantity in cores."""
    return float(quantity.removesuffix("m")) / (1000 if quantity.endswith("m") else 1)


def settings_of(objects: list[dict]) -> Settings:
    """What the server makes of them."""
    ours = {name: value for name, value in environment_of(objects).items() if name.startswith(ENVIRONMENT_PREFIX)}
    known = {f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert set(ours) <= known, f"no such settings: {set(ours) - known}"
    with mock.patch.dict(os.environ, ours, clear=True):
        return load_settings()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_takes_its_environment(built: dict[str, list[dict]], overlay: str) -> None:
    settings = settings_of(built[overlay])
    assert settings.host == "0.0.0.0"
    assert settings.log_format == "json"
    assert settings.max_connection_age_seconds > 0, "or new replicas get no calls from old clients"
    assert settings.engine == {"gpu": "triton", "dev": "auto"}.get(overlay, "openvino")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_threads_follow_the_cpu_request_and_not_the_node(built: dict[str, list[dict]], overlay: str) -> None:
    requested = cores(service_container(built[overlay])["resources"]["requests"]["cpu"])
    settings = settings_of(built[overlay])
    assert settings.threads == settings.decode_threads == max(1, math.ceil(requested))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_replicas_share_the_registry_that_is_deployed_with_them(built: dict[str, list[dict]], overlay: str) -> None:
    url = environment_of(built[overlay])["CAPESERVE_REGISTRY"]
    scheme, _, rest = url.partition("://")
    host, port = rest.partition("/")[0].rpartition("@")[2].split(":")
    assert scheme == ("rediss" if overlay == "secure" else "redis")
    service = named(built[overlay], "Service", host)
    assert service["spec"]["ports"][0]["port"] == int(port)
    assert "secret" not in settings_of(built[overlay]).describe()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_models_are_read_where_they_are_written(built: dict[str, list[dict]], overlay: str) -> None:
    repository = environment_of(built[overlay])["CAPESERVE_REPOSITORY"]
    for mount in service_container(built[overlay])["volumeMounts"]:
        assert mount["name"] != "models" or (mount["readOnly"] and repository.startswith(mount["mountPath"]))
    if not of_kind(built[overlay], "Job"):
        return  # models come from an image
    job = named(built[overlay], "Job", "capeserve-export")
    (container,) = pod_of(job)["containers"]
    assert {item["name"]: item["value"] for item in container["env"]}["EXPORT_OUTPUT"] == repository
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for workload in (job, named(built[overlay], "Deployment", "capeserve"))
        for volume in pod_of(workload)["volumes"]
        if volume["name"] == "models"
    }
    assert len(claims) == 1


def test_secrets_are_named_and_not_kept(built: dict[str, list[dict]]) -> None:
    readme = (ROOT / "k8s" / "README.md").read_text()
    for overlay, objects in built.items():
        if overlay != "dev":
            assert not of_kind(objects, "Secret")
            for workload in workloads(objects):
                for name in _secrets(pod_of(workload)):
                    assert f"`{name}`" in readme, f"k8s/README.md does not say how to make {name}"


def _secrets(tree: object) -> set[str]:
    """Names of all secrets that a tree refers to."""
    if isinstance(tree, list):
        return {name for item in tree for name in _secrets(item)}
    if not isinstance(tree, dict):
        return set()
    own = {tree["secretKeyRef"]["name"]} if "secretKeyRef" in tree else set()
    own |= {tree["secret"]["secretName"]} if "secret" in tree else set()
    return own.union(*(_secrets(value) for value in tree.values()))
