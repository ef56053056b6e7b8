"""Errors as problem details (RFC 9457), with the HTTP status that google.rpc.Code documents for each gRPC code."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import grpc
from starlette.responses import JSONResponse

from cape.client.errors import (
    CapeError,
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
)

MEDIA_TYPE = "application/problem+json"

HTTP_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

TITLES: dict[str, str] = {
    "invalid-argument": "Something is wrong in the request",
    "failed-precondition": "The support lacks what the model needs",
    "out-of-range": "A value is out of range",
    "unauthenticated": "The token is missing or wrong",
    "permission-denied": "The token does not allow this",
    "not-found": "There is no such resource",
    "aborted": "The call was aborted",
    "already-exists": "The resource exists",
    "resource-exhausted": "The server is full, or a limit is reached",
    "cancelled": "The call was cancelled",
    "data-loss": "Data was lost",
    "internal": "The server failed",
    "unknown": "The server failed",
    "unimplemented": "The server does not implement this",
    "unavailable": "The server cannot be reached, or is starting or stopping",
    "deadline-exceeded": "The server did not answer in time",
    "method-not-allowed": "The resource has no such method",
    "unsupported-media-type": "The body's media type is not supported",
    "content-too-large": "The body is too large",
}
"""Title of each problem type; the last part of the type's URI, "/problems/{name}"."""

_STATUS_PROBLEMS = {
    403: "permission-denied",
    404: "not-found",
    405: "method-not-allowed",
    413: "content-too-large",
    415: "unsupported-media-type",
}


class RequestError(Exception):
    """A request that the gateway itself rejects.

    Attributes:
        status: HTTP status.
        violations: what is wrong with which field.
    """

    def __init__(self, detail: str, *, status: int = 400, violations: Sequence[FieldViolation] = ()) -> None:
        self.status = status
        self.violations = tuple(violations)
        super().__init__(detail)


def problem(error: CapeError | RequestError, body: str = "*") -> dict[str, Any]:
    """The problem details of an error.

    Args:
        error: of the server or of the gateway.
        body: which field of the request the JSON body is (`Binding.body`), for JSON pointers.
    """
    if isinstance(error, RequestError):
        name = _STATUS_PROBLEMS.get(error.status, "invalid-argument")
        found = _problem(name, error.status, str(error))
        violations: tuple[FieldViolation, ...] = error.violations
    else:
        name = error.code.name.lower().replace("_", "-")
        found = _problem(name, HTTP_STATUS.get(error.code, 500), str(error))
        found["code"] = error.code.name
        violations = error.violations if isinstance(error, InvalidRequestError) else ()
    if violations:
        found["errors"] = [_violation(violation, body) for violation in violations]
    if isinstance(error, NotFoundError) and error.resource_name:
        found["resource"] = error.resource_name
    if isinstance(error, OverloadedError):
        found["retryAfter"] = error.retry_after
    return found


def problem_response(error: CapeError | RequestError, body: str = "*") -> JSONResponse:
    """The HTTP answer for an error."""
    content = problem(error, body)
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if content["status"] == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, content["status"], headers, MEDIA_TYPE)


def plain_problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The HTTP answer for an error that the web framework found, such as an unknown path."""
    name = _STATUS_PROBLEMS.get(status, "internal" if status >= 500 else "invalid-argument")
    return JSONResponse(_problem(name, status, detail), status, headers, MEDIA_TYPE)


def camel_case(path: str) -> str:
    """A field path as JSON spells it: "inline_support.examples[0]" → "inlineSupport.examples[0]"."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), path)


def _problem(name: str, status: int, detail: str) -> dict[str, Any]:
    return {"type": f"/problems/{name}", "title": TITLES[name], "status": status, "detail": detail}


def _violation(violation: FieldViolation, body: str) -> dict[str, str]:
    field = camel_case(violation.field)
    steps = re.findall(r"[^.\[\]]+", field)
    if body not in ("", "*") and steps[:1] == [camel_case(body)]:
        steps = steps[1:]
    return {"field": field, "pointer": "#" + "".join(f"/{step}" for step in steps), "detail": violation.description}
