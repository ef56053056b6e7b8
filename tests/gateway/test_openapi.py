"""The OpenAPI document is valid, complete, and what the gateway does."""

from __future__ import annotations

from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import validate

from cape.v1 import model_service_pb2, pose_service_pb2, support_service_pb2
from gateway.rest.openapi import document
from tests.gateway.conftest import http


def test_the_document_is_valid_and_every_method_is_in_it(gateway: str) -> None:
    published = http(f"{gateway}/openapi.json").json
    validate(published)
    operations = {one["operationId"] for verbs in published["paths"].values() for one in verbs.values()}
    for file in (pose_service_pb2, support_service_pb2, model_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            assert {method.name for method in service.methods} <= operations


schema = schemathesis.openapi.from_dict(document())


@pytest.mark.parametrize("operation", [one.ok() for one in schema.get_all_operations()], ids=lambda one: one.label)
def test_no_generated_request_finds_an_answer_that_the_document_does_not_have(operation, gateway: str) -> None:
    if "stream" in operation.label:
        checks = [schemathesis.checks.not_a_server_error]
    else:
        checks = [
            schemathesis.checks.not_a_server_error,
            schemathesis.checks.CHECKS.get_one("status_code_conformance"),
            schemathesis.checks.CHECKS.get_one("content_type_conformance"),
            schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
        ]

    @given(case=operation.as_strategy())
    @settings(
        max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate], database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def conforms(case) -> None:
        case.call_and_validate(base_url=gateway, checks=checks)

    conforms()


def test_the_comments_are_part_of_the_package() -> None:
    import cape.v1

    assert (Path(cape.v1.__file__).parent / "comments.json").exists()
