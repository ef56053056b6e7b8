"""Every overlay builds, and every object in it is one that Kubernetes and the operators take."""

from __future__ import annotations

import json

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.k8s.kubernetes_objects import of_kind
from tests.k8s.manifest_files import K8S, OVERLAYS

KUBERNETES = "1.37"
CUSTOM = {
    schema["properties"]["kind"]["const"]: schema
    for schema in (json.loads(path.read_text()) for path in (K8S / "schemas").glob("*.json"))
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(built: dict[str, list[dict]], overlay: str) -> None:
    for item in built[overlay]:
        if item["kind"] in CUSTOM:
            Draft202012Validator(CUSTOM[item["kind"]]).validate(item)
        else:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_a_misspelt_field_would_be_found(built: dict[str, list[dict]]) -> None:
    (deployment,) = of_kind(built["cpu"], "Deployment")
    wrong = json.loads(json.dumps(deployment))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)
    (monitor,) = of_kind(built["cpu"], "ServiceMonitor")
    monitor = json.loads(json.dumps(monitor))
    monitor["spec"]["endpoints"][0]["intervall"] = "15s"
    assert not Draft202012Validator(CUSTOM["ServiceMonitor"]).is_valid(monitor)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_lies_in_one_namespace(built: dict[str, list[dict]], overlay: str) -> None:
    namespaces = {item["metadata"].get("namespace") for item in built[overlay] if item["kind"] != "Namespace"}
    assert len(namespaces) == 1
    assert None not in namespaces


def test_the_kserve_examples_fit_the_definitions_and_name_each_other() -> None:
    for path in (K8S / "examples" / "kserve").glob("*.yaml"):
        runtime, service = yaml.safe_load_all(path.read_text())
        for item in (runtime, service):
            Draft202012Validator(CUSTOM[item["kind"]]).validate(item)
        model = service["spec"]["predictor"]["model"]
        assert model["runtime"] == runtime["metadata"]["name"]
        assert model["modelFormat"]["name"] in {form["name"] for form in runtime["spec"]["supportedModelFormats"]}
        assert runtime["spec"]["containers"][0]["name"] == "kserve-container", "the name that KServe looks for"
