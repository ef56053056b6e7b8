"""Exceptions of the client, made from gRPC statuses and their details."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_Detail = TypeVar("_Detail", bound=Message)


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One violation in a request.

    Attributes:
        field: path of the field: "support.examples[0].keypoints[3].x".
        description: what is wrong with the field.
    """

    field: str
    description: str


class CapeError(Exception):
    """A failed request. `str()` is a readable message.

    Attributes:
        code: the gRPC status code.
    """

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        self.code = code
        super().__init__(message)


class InvalidRequestError(CapeError):
    """The request is invalid. Retrying it is pointless.

    Attributes:
        violations: the invalid fields.
    """

    def __init__(self, message: str, code: grpc.StatusCode, violations: tuple[FieldViolation, ...]) -> None:
        self.violations = violations
        super().__init__(message, code)


class NotFoundError(CapeError):
    """The support or model does not exist.

    Attributes:
        resource_name: its name, if the server sent it.
    """

    def __init__(self, message: str, code: grpc.StatusCode, resource_name: str) -> None:
        self.resource_name = resource_name
        super().__init__(message, code)


class FailedPreconditionError(CapeError):
    """The support lacks what the model needs."""


class ResourceExhaustedError(CapeError):
    """A limit was reached, such as the size of a message."""


class OverloadedError(ResourceExhaustedError):
    """The server's queue is full.

    Attributes:
        retry_after: seconds to wait before retrying.
    """

    def __init__(self, message: str, code: grpc.StatusCode, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message, code)


class DeadlineExceededError(CapeError):
    """No answer before the deadline, or the server saw that it could not meet the deadline."""


class UnavailableError(CapeError):
    """The server cannot be reached, is shutting down, or its engine failed."""


class UnauthenticatedError(CapeError):
    """The token is missing or wrong."""


class PermissionDeniedError(CapeError):
    """The token does not allow this."""


class CancelledError(CapeError):
    """The call was cancelled."""


class ServerError(CapeError):
    """The server failed, and the caller is not at fault."""


_PLAIN: dict[grpc.StatusCode, type[CapeError]] = {
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.CANCELLED: CancelledError,
}

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def error_from_call(error: grpc.RpcError) -> CapeError:
    """Converts an error of the synchronous or asynchronous gRPC API."""
    call: Any = error
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                return error_from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    if call.code() is grpc.StatusCode.CANCELLED:
        # The client's own cancellations raise nothing, so the server cancelled: it shut down before handling the call.
        return UnavailableError("the server ended the call", grpc.StatusCode.CANCELLED)
    return _error(call.code(), call.details() or "", ())


def error_from_status(status: status_pb2.Status) -> CapeError:
    """Converts a google.rpc.Status, such as that of a batch item."""
    return _error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, status.details)


def _error(code: grpc.StatusCode, message: str, details: Iterable[Any]) -> CapeError:
    details = tuple(details)
    message = message or code.name.lower().replace("_", " ")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE):
        request = _find(details, error_details_pb2.BadRequest)
        found = request.field_violations if request else ()
        violations = tuple(FieldViolation(violation.field, violation.description) for violation in found)
        listed = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        return InvalidRequestError(listed or message, code, violations)
    if code is grpc.StatusCode.NOT_FOUND:
        resource = _find(details, error_details_pb2.ResourceInfo)
        return NotFoundError(message, code, resource.resource_name if resource else "")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry = _find(details, error_details_pb2.RetryInfo)
        if retry is not None:
            return OverloadedError(message, code, retry.retry_delay.ToTimedelta().total_seconds())
        return ResourceExhaustedError(message, code)
    return _PLAIN.get(code, ServerError)(message, code)


def _find(details: Iterable[Any], kind: type[_Detail]) -> _Detail | None:
    for detail in details:
        found = kind()
        if detail.Unpack(found):
            return found
    return None
