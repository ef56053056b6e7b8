"""JSON, multipart forms, path variables and query parameters → request messages; answers → JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cape.client.errors import FieldViolation
from gateway.rest.problems import RequestError, camel_case

MAX_INDEX = 1_000
"""Largest index in a form's field path; the server's own limits are lower."""

_IMAGE = "cape.v1.Image"
_STEP = re.compile(r"(?:^|\.)(\w+)|\[(\d+)\]")
_ERROR_STEP = re.compile(r"Failed to parse (\w+) field: ")
_ERROR_PATH = re.compile(r' at "?\w+\.?([\w.\[\]]*?)"?\.*(?:\n|$)')


def new_message(descriptor: Descriptor) -> Any:
    """An empty message of a type."""
    return GetMessageClass(descriptor)()


def to_json(message: Message) -> str:
    """A message as compact JSON (proto3 JSON mapping); fields that have their default value are written too."""
    return json_format.MessageToJson(message, always_print_fields_with_no_presence=True, indent=None)


def parse_json(text: bytes) -> Any:
    """JSON as RFC 8259 has it.

    Raises:
        RequestError: it is something else.
    """
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None


def fill_from_json(message: Message, value: Any, path: str = "") -> None:
    """Merges parsed JSON into a message.

    Args:
        message: the request, or a part of it.
        value: parsed JSON.
        path: of `message` in the request, for errors.

    Raises:
        RequestError: it does not fit the message; says where.
    """
    if not isinstance(value, dict):
        raise _violation(path, "must be a JSON object")
    try:
        json_format.ParseDict(_without_data_urls(value), message)
    except RecursionError:
        raise _violation(path, "is nested too deeply") from None
    except json_format.ParseError as error:
        where, description = _parse_error(str(error))
        raise _violation(".".join(part for part in (path, where) if part), description) from None
    except (TypeError, AttributeError, ValueError) as error:  # the parser trusts the types of what it is given
        raise _violation(path, f"does not fit: {error}") from None


def fill_from_path(message: Any, variables: Mapping[str, str]) -> None:
    """Sets the fields that the URL's path names.

    Raises:
        RequestError: the body says something else.
    """
    for name, value in variables.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        oneof = field.containing_oneof
        set_to = message.WhichOneof(oneof.name) if oneof is not None else (name if getattr(message, name) else None)
        if set_to is not None and (set_to != name or getattr(message, name) != value):
            raise _violation(set_to, f"the path already says {value!r}")
        setattr(message, name, value)


def fill_from_query(message: Any, parameters: Iterable[tuple[str, str]]) -> None:
    """Sets scalar fields from query parameters.

    Raises:
        RequestError: there is no such parameter, it is given twice, or its value does not fit.
    """
    given = set()
    for name, text in parameters:
        field = _field(message.DESCRIPTOR, name)
        if field is None or field.message_type is not None:
            raise _violation(name, "there is no such query parameter")
        if field.name in given:
            raise _violation(name, "given twice")
        given.add(field.name)
        _set_text(message, field, text, name)


def fill_from_form(message: Message, parts: Iterable[tuple[str, str | bytes]]) -> None:
    """Sets fields from the parts of a multipart form, whose names are field paths.

    A part "request" holds JSON for the whole message. A file is an image ("image", "inlineSupport.examples[0].image")
    or bytes; text is a string, a number, true, false, the name of an enum value, or JSON for a message or a list.

    Raises:
        RequestError: there is no such field, or its value does not fit.
    """
    ordered = sorted(parts, key=lambda part: part[0] != "request")
    for path, value in ordered:
        if path == "request":
            text = value.encode() if isinstance(value, str) else value
            fill_from_json(message, parse_json(text))
        else:
            _set_path(message, path, value)


def _parse_error(text: str) -> tuple[str, str]:
    """Field path and description in a message of protobuf's JSON parser."""
    text = text.partition("\n Available Fields")[0]
    found = _ERROR_PATH.search(text)
    steps = _ERROR_STEP.findall(text)
    description = _ERROR_PATH.sub("", _ERROR_STEP.sub("", text)).rstrip(". \n")
    return (found[1] if found and found[1] else ".".join(steps)), description


def _set_path(message: Any, path: str, value: str | bytes) -> None:
    steps = [match[1] or int(match[2]) for match in _STEP.finditer(path)]
    if not steps or _STEP.sub("", path):
        raise _violation(path, "not a field path, such as boxes[0].x")
    parent, field, index = message, None, None
    for step in steps:
        if isinstance(step, int):
            if field is None or index is not None or not field.is_repeated:
                raise _violation(path, "an index needs a list before it")
            if step > MAX_INDEX:
                raise _violation(path, f"the index is more than {MAX_INDEX}")
            index = step
            continue
        if field is not None:
            parent = _child(parent, field, index, path)
        field, index = _field(parent.DESCRIPTOR, step), None
        if field is None:
            raise _violation(path, f"{parent.DESCRIPTOR.name} has no field {step!r}")
    assert field is not None
    if isinstance(value, bytes):
        _set_bytes(parent, field, index, value, path)
    elif field.message_type is not None and (index is not None or not field.is_repeated):
        fill_from_json(_child(parent, field, index, path), parse_json(value.encode()), path)
    else:
        _set_text(parent, field, value, path)


def _child(parent: Any, field: FieldDescriptor, index: int | None, path: str) -> Any:
    """The message that a step of a path leads to; lists grow as far as needed."""
    if field.message_type is None:
        raise _violation(path, f"{camel_case(field.name)} has no fields")
    if not field.is_repeated:
        child = getattr(parent, field.name)
        child.SetInParent()
        return child
    if index is None:
        raise _violation(path, f"{camel_case(field.name)} is a list: an index is missing")
    items = getattr(parent, field.name)
    while len(items) <= index:
        items.add()
    return items[index]


def _set_bytes(parent: Any, field: FieldDescriptor, index: int | None, value: bytes, path: str) -> None:
    if field.message_type is not None and field.message_type.full_name == _IMAGE:
        _child(parent, field, index, path).encoded = value
    elif field.type == FieldDescriptor.TYPE_BYTES:
        setattr(parent, field.name, value)
    else:
        raise _violation(path, "takes no file")


def _set_text(parent: Any, field: FieldDescriptor, text: str, path: str) -> None:
    value: Any = text
    if field.is_repeated or field.type not in (
        FieldDescriptor.TYPE_STRING,
        FieldDescriptor.TYPE_BYTES,
        FieldDescriptor.TYPE_ENUM,
    ):
        try:
            value = json.loads(text, parse_constant=_reject_constant)
        except (ValueError, RecursionError):
            raise _violation(path, f"{text[:50]!r} is not what this field takes") from None
    try:
        json_format.ParseDict({field.name: _without_data_urls(value)}, parent)
    except (json_format.ParseError, TypeError, AttributeError, ValueError, RecursionError):
        raise _violation(path, f"{text[:50]!r} is not what this field takes") from None


def _field(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    """A field by its name in the proto or in JSON."""
    return descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)


def _without_data_urls(value: Any) -> Any:
    """Parsed JSON in which images given as data URLs (data:image/jpeg;base64,…) are bare base64."""
    if isinstance(value, dict):
        return {
            key: item.partition(",")[2]
            if key == "encoded" and isinstance(item, str) and item.startswith("data:")
            else _without_data_urls(item)
            for key, item in value.items()
        }
    return [_without_data_urls(item) for item in value] if isinstance(value, list) else value


def _violation(path: str, description: str) -> RequestError:
    path = camel_case(path)
    return RequestError(
        f"{path}: {description}" if path else description, violations=[FieldViolation(path, description)]
    )


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
