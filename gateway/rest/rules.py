"""HTTP bindings of cape.v1's methods, read from the google.api.http annotations in their descriptors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor

from cape.v1 import model_service_pb2, pose_service_pb2, support_service_pb2

_FILES = (pose_service_pb2, support_service_pb2, model_service_pb2)

_VARIABLE = re.compile(r"{(\w+)=([^*{}]*)\*}")
"""A variable of a path template with one wildcard: {name=supports/*}."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One way to call a method over HTTP.

    Attributes:
        method: descriptor of the gRPC method.
        verb: "GET", "POST" or "DELETE".
        path: path with one `{variable}` per variable: "/v1/supports/{name}".
        prefixes: variable → what goes before its segment to form the field's value: {"name": "supports/"}.
        body: field that the body fills; "*" for the whole request; empty for no body.
        index: 0 for a method's main binding, then its additional ones.
    """

    method: MethodDescriptor
    verb: str
    path: str
    prefixes: dict[str, str]
    body: str
    index: int

    @property
    def grpc_path(self) -> str:
        """Path of the gRPC method."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def streams(self) -> bool:
        """Whether requests and answers are streams."""
        return bool(self.method.client_streaming and self.method.server_streaming)


def bindings() -> list[Binding]:
    """All bindings of cape.v1, in the order of the protos."""
    return [
        binding
        for file in _FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        for binding in _bindings(method)
    ]


def _bindings(method: MethodDescriptor) -> Iterator[Binding]:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for index, one in enumerate((rule, *rule.additional_bindings)):
        yield _binding(method, one, index)


def _binding(method: MethodDescriptor, rule: http_pb2.HttpRule, index: int) -> Binding:
    verb = rule.WhichOneof("pattern")
    if verb is None:
        raise ValueError(f"{method.full_name} has no google.api.http annotation")
    template: str = getattr(rule, verb)
    prefixes = {match[1]: match[2] for match in _VARIABLE.finditer(template)}
    path = _VARIABLE.sub(lambda match: f"{match[2]}{{{match[1]}}}", template)
    return Binding(method, verb.upper(), path, prefixes, rule.body, index)
