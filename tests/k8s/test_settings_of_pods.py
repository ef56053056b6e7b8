"""What pods are told in their environment is read as the server reads it."""

from __future__ import annotations

import os
from unittest import mock

import pytest

from service.settings import ENVIRONMENT_PREFIX, Settings, load_settings
from tests.k8s.kubernetes_objects import named, of_kind, pod_of, service_container, workloads
from tests.k8s.manifest_files import OVERLAYS, ROOT


def environment_of(objects: list[dict]) -> dict[str, str]:
    """The service's environment variables; what comes out of a secret is 'secret'."""
    container = service_container(objects)
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        (config,) = [
            item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"] == source["configMapRef"]["name"]
        ]
        found |= config["data"]
    for variable in container.get("env", []):
        value = variable.get("value", "secret")
        for name, known in found.items():
            value = value.replace(f"$({name})", known)
        found[variable["name"]] = value
    return found


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
    assert settings.engine == ("triton" if overlay == "gpu" else "auto")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_replicas_share_the_registry_that_is_deployed_with_them(built: dict[str, list[dict]], overlay: str) -> None:
    url = environment_of(built[overlay])["CAPESERVE_REGISTRY"]
    host, port = url.removesuffix("/0").rpartition("@")[2].split(":")
    service = named(built[overlay], "Service", host)
    assert service["spec"]["ports"][0]["port"] == int(port)
    assert "secret" not in settings_of(built[overlay]).describe()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_models_are_read_where_they_are_written(built: dict[str, list[dict]], overlay: str) -> None:
    repository = environment_of(built[overlay])["CAPESERVE_REPOSITORY"]
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
    for mount in service_container(built[overlay])["volumeMounts"]:
        assert mount["name"] != "models" or mount["readOnly"]


def test_secrets_are_named_and_not_kept(built: dict[str, list[dict]]) -> None:
    readme = (ROOT / "k8s" / "README.md").read_text()
    for overlay, objects in built.items():
        if overlay != "dev":
            assert not of_kind(objects, "Secret")
            for workload in workloads(objects):
                for name in _secrets(pod_of(workload)):
                    assert f"`{name}`" in readme, f"k8s/README.md does not say how to make {name}"


def _secrets(tree: object) -> set[str]:
    """Names of all secrets that are referred to."""
    if isinstance(tree, list):
        return {name for item in tree for name in _secrets(item)}
    if not isinstance(tree, dict):
        return set()
    own = {tree["secretKeyRef"]["name"]} if "secretKeyRef" in tree else set()
    own |= {tree["secret"]["secretName"]} if "secret" in tree else set()
    return own.union(*(_secrets(value) for value in tree.values()))
