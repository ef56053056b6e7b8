"""The OpenAPI document of the REST API, made from the descriptors of cape.v1 and the comments in its protos."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from cape import __version__
from gateway.rest.problems import HTTP_STATUS, MEDIA_TYPE
from gateway.rest.rules import Binding, bindings

Schema = dict[str, Any]

_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "example": "0.027s",
        "description": "Seconds with up to nine decimals, and `s`.",
    },
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    },
}

_FLOAT = {"type": "number"}
_INTEGER = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_DOUBLE: _FLOAT,
    FieldDescriptor.TYPE_FLOAT: _FLOAT,
    FieldDescriptor.TYPE_INT32: _INTEGER,
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
}

_PROBLEM: Schema = {
    "type": "object",
    "description": "Why a request failed (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Identifies the kind of problem."},
        "title": {"type": "string", "description": "The kind of problem, in words."},
        "status": {"type": "integer", "description": "HTTP status."},
        "detail": {"type": "string", "description": "What is wrong in this request."},
        "code": {"type": "string", "enum": sorted(code.name for code in HTTP_STATUS), "description": "gRPC status."},
        "errors": {
            "type": "array",
            "description": "What is wrong with which field.",
            "items": {
                "type": "object",
                "required": ["field", "pointer", "detail"],
                "properties": {
                    "field": {"type": "string", "example": "boxes[0].width"},
                    "pointer": {"type": "string", "description": "JSON pointer into the body."},
                    "detail": {"type": "string"},
                },
            },
        },
        "resource": {"type": "string", "description": "Name of the resource that is not there."},
        "retryAfter": {"type": "number", "description": "Seconds after which trying again makes sense."},
    },
}

_STREAM_HELP = (
    "The body holds one JSON object per line (`application/x-ndjson`) or a list of them (`application/json`). Answers "
    "are server-sent events: `answer` events, in the order in which they are ready, then one `end` event, or one "
    "`problem` event if the stream fails. With `Accept: application/x-ndjson` they are lines of JSON instead."
)

_DESCRIPTION = """Finds keypoints on objects of any category, given one example: an image with keypoints, texts that
describe them, or both.

JSON follows the proto3 mapping: lowerCamelCase names (snake_case is read too), base64 for bytes (an image's `encoded`
may also be a data URL), strings for enum values, durations and 64-bit integers. `multipart/form-data` takes images as
files: a part is named by the path of its field, `image` or `examples[0].image`, and a part `request` holds the rest as
JSON.

A token goes into the header `Authorization: Bearer …`. `Prefer: wait=5` limits a call to five seconds."""


@functools.cache
def comments() -> dict[str, str]:
    """Comments of the protos, by full name."""
    text = resources.files("cape.v1").joinpath("comments.json").read_text("utf-8")
    found: dict[str, str] = json.loads(text)
    return found


@functools.cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.0 document."""
    schemas = _Schemas()
    paths: dict[str, Any] = {}
    for binding in bindings():
        paths.setdefault(binding.path, {})[binding.verb.lower()] = _operation(binding, schemas)
    schemas.found["Problem"] = _PROBLEM
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "capeserve",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": name, "description": comments().get(f"cape.v1.{name}", "")}
            for name in ("PoseService", "SupportService", "ModelService")
        ],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": dict(sorted(schemas.found.items())),
        },
    }


class _Schemas:
    """Schemas of messages and enums, collected as they are referred to."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def message(self, descriptor: Descriptor) -> Schema:
        """Reference to a message's schema."""
        if descriptor.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[descriptor.full_name]
        name = "RpcStatus" if descriptor.full_name == "google.rpc.Status" else descriptor.name
        if name not in self.found:
            self.found[name] = {}  # a message may refer to itself
            self.found[name] = {
                "type": "object",
                "description": comments().get(descriptor.full_name, ""),
                "additionalProperties": False,
                "properties": {field.camelcase_name: self.field(field) for field in descriptor.fields},
            }
        return {"$ref": f"#/components/schemas/{name}"}

    def field(self, field: FieldDescriptor) -> Schema:
        """Schema of a field, with its comment."""
        description = comments().get(field.full_name, "")
        schema = self._single(field)
        if field.is_repeated:
            return {"type": "array", "items": schema, "description": description}
        if "$ref" in schema:
            return {"allOf": [schema], "description": description} if description else schema
        return schema | {"description": description or schema.get("description", "")}

    def _single(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.message(field.message_type)
        return self._enum(field.enum_type) if field.enum_type is not None else dict(_SCALARS[field.type])

    def _enum(self, descriptor: EnumDescriptor) -> Schema:
        if descriptor.name not in self.found:
            lines = [comments().get(descriptor.full_name, "")]
            for value in descriptor.values:
                said = comments().get(f"{descriptor.full_name}.{value.name}", "")
                lines += [f"`{value.name}`: {said}"] if said else []
            self.found[descriptor.name] = {
                "type": "string",
                "enum": [value.name for value in descriptor.values],
                "description": "\n\n".join(lines),
            }
        return {"$ref": f"#/components/schemas/{descriptor.name}"}


def _operation(binding: Binding, schemas: _Schemas) -> dict[str, Any]:
    method, request = binding.method, binding.method.input_type
    suffix = f"-{binding.index}" if binding.index else ""
    summary = comments().get(method.full_name, method.name)
    operation: dict[str, Any] = {
        "operationId": f"{method.name}{suffix}",
        "tags": [method.containing_service.name],
        "summary": summary,
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": f"Id in “{prefix}{{id}}”.",
                "schema": {"type": "string", "minLength": 1, "pattern": "^[^/?#]+$"},
            }
            for name, prefix in binding.prefixes.items()
        ],
        "responses": {
            "200": {"description": "The answer.", "content": _answers(binding, schemas)},
            "default": {
                "description": "Why the request failed.",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if binding.streams:
        operation["description"] = _STREAM_HELP
    if binding.body:
        operation["requestBody"] = {"required": True, "content": _bodies(binding, schemas)}
    else:
        operation["parameters"] += [
            {
                "name": field.camelcase_name,
                "in": "query",
                "description": comments().get(field.full_name, ""),
                "schema": schemas.field(field),
            }
            for field in request.fields
            if field.name not in binding.prefixes
        ]
    return operation


def _answers(binding: Binding, schemas: _Schemas) -> dict[str, Any]:
    schema = schemas.message(binding.method.output_type)
    if binding.streams:
        text = {"type": "string", "description": f"Each answer is a {binding.method.output_type.name}."}
        return {"text/event-stream": {"schema": text}, "application/x-ndjson": {"schema": text}}
    return {"application/json": {"schema": schema}}


def _bodies(binding: Binding, schemas: _Schemas) -> dict[str, Any]:
    request = binding.method.input_type
    target = request if binding.body == "*" else request.fields_by_name[binding.body].message_type
    assert target is not None
    schema = schemas.message(target)
    if binding.streams:
        return {
            "application/json": {"schema": {"type": "array", "items": schema}},
            "application/x-ndjson": {"schema": {"type": "string", "description": f"Each line is a {request.name}."}},
        }
    if binding.prefixes:
        # Fields that the path names are not for the body too.
        inner = dict(schemas.found[target.name])
        left_out = {field.name for name in binding.prefixes for field in _alternatives(target, name)}
        inner["properties"] = {
            key: value
            for key, value in inner["properties"].items()
            if key not in {target.fields_by_name[name].camelcase_name for name in left_out}
        }
        schema = inner
    form = {
        "type": "object",
        "description": "Parts are named by field paths; files are images.",
        "properties": {"request": {"type": "string", "description": f"{target.name} as JSON, or a part of it."}},
        "additionalProperties": True,
    }
    image = target.fields_by_name.get("image")
    if image is not None:
        form["properties"] |= {"image": {"type": "string", "format": "binary"}}  # type: ignore[operator]
    return {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}


def _alternatives(target: Descriptor, name: str) -> list[FieldDescriptor]:
    """A field, and those that exclude it."""
    field = target.fields_by_name[name]
    return list(field.containing_oneof.fields) if field.containing_oneof is not None else [field]
