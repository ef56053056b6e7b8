"""Translation of errors into gRPC statuses with google.rpc details; the only place that does it.

| error | code | details beside ErrorInfo |
|---|---|---|
| InvalidFieldError | INVALID_ARGUMENT | BadRequest: the fields and what is wrong with each |
| NotFoundError | NOT_FOUND | ResourceInfo |
| UnusableSupportError, MissingModalityError | FAILED_PRECONDITION | PreconditionFailure |
| QueueFullError, CallerLimitError | RESOURCE_EXHAUSTED | RetryInfo |
| StorageQuotaError | RESOURCE_EXHAUSTED | QuotaFailure |
| MessageSizeError, StorageFullError, MemoryError | RESOURCE_EXHAUSTED | |
| DamagedSupportError | DATA_LOSS | ResourceInfo |
| UnauthenticatedError | UNAUTHENTICATED | |
| DeadlineError | DEADLINE_EXCEEDED | |
| EngineError, UnavailableError | UNAVAILABLE | |
| anything else | INTERNAL, and a traceback in the log | |
"""

from __future__ import annotations

import logging
import uuid

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from service.errors import (
    CallerLimitError,
    DamagedSupportError,
    DeadlineError,
    EngineError,
    InvalidFieldError,
    MessageSizeError,
    MissingModalityError,
    NotFoundError,
    QueueFullError,
    StorageFullError,
    StorageQuotaError,
    UnauthenticatedError,
    UnavailableError,
    UnusableSupportError,
)

logger = logging.getLogger(__name__)

DOMAIN = "capeserve"
"""`ErrorInfo.domain` of every error."""

MAX_TEXT = 300
"""Most characters of a text in a status. Statuses travel in HTTP/2 headers, and clients accept 8 KB of those."""

CODES = {code.value[0]: code for code in grpc.StatusCode}


def status_of(error: Exception) -> status_pb2.Status:
    """Translates an error into a status, and logs it when it is the server's fault.

    An exception that is not in the table becomes INTERNAL without its text, which may hold anything. The text goes to
    the log under a number that is part of the status.
    """
    match error:
        case InvalidFieldError():
            fields = [
                error_details_pb2.BadRequest.FieldViolation(field=field[:MAX_TEXT], description=text[:MAX_TEXT])
                for field, text in error.violations
            ]
            details: list[Message] = [error_details_pb2.BadRequest(field_violations=fields)]
            return _status(code_pb2.INVALID_ARGUMENT, "INVALID_FIELD", str(error), details)
        case NotFoundError():
            resource = error_details_pb2.ResourceInfo(
                resource_type=error.resource_type, resource_name=error.resource_name[:MAX_TEXT]
            )
            return _status(code_pb2.NOT_FOUND, "NOT_FOUND", str(error), [resource])
        case UnusableSupportError():
            reason = "MISSING_MODALITY" if isinstance(error, MissingModalityError) else "UNUSABLE_SUPPORT"
            violation = error_details_pb2.PreconditionFailure.Violation(
                type=reason, subject=error.subject[:MAX_TEXT], description=str(error)[:MAX_TEXT]
            )
            failure = error_details_pb2.PreconditionFailure(violations=[violation])
            return _status(code_pb2.FAILED_PRECONDITION, reason, str(error), [failure])
        case MessageSizeError():
            return _status(code_pb2.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", str(error), [])
        case StorageFullError():
            return _status(code_pb2.RESOURCE_EXHAUSTED, "REGISTRY_FULL", str(error), [])
        case StorageQuotaError():
            subject = f"tenants/{error.tenant}" if error.tenant else "tenants/-"
            quota = error_details_pb2.QuotaFailure.Violation(subject=subject, description=error.description)
            failed = error_details_pb2.QuotaFailure(violations=[quota])
            return _status(code_pb2.RESOURCE_EXHAUSTED, "STORAGE_QUOTA", str(error), [failed])
        case DamagedSupportError():
            resource = error_details_pb2.ResourceInfo(resource_type="cape.v1.Support", resource_name=error.name)
            return _status(code_pb2.DATA_LOSS, "SUPPORT_DAMAGED", str(error), [resource])
        case MemoryError():
            logger.error("out of memory", exc_info=error)
            text = "the server has not enough memory for this request now"
            return _status(code_pb2.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY", text, [])
        case UnauthenticatedError():
            return _status(code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED", str(error), [])
        case QueueFullError() | CallerLimitError():
            reason = "SERVER_FULL" if isinstance(error, QueueFullError) else "CALLER_LIMIT"
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
            return _status(code_pb2.RESOURCE_EXHAUSTED, reason, str(error), [retry])
        case DeadlineError():
            return _status(code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", str(error), [])
        case EngineError():
            # The runtime's text may contain paths and node names, so it goes to the log only.
            logger.error("engine failed: %s", error)
            text = f"the engine could not run {error.component}"
            return _status(code_pb2.UNAVAILABLE, "ENGINE_FAILED", text, [], component=error.component)
        case UnavailableError():
            return _status(code_pb2.UNAVAILABLE, "UNAVAILABLE", str(error), [])
        case _:
            number = uuid.uuid4().hex[:12]
            logger.error("internal error %s", number, exc_info=error)
            text = f"internal error; the server's log has it as {number}"
            return _status(code_pb2.INTERNAL, "INTERNAL", text, [], log_id=number)


def grpc_code(status: status_pb2.Status) -> grpc.StatusCode:
    """The gRPC code of a status."""
    return CODES[status.code]


def _status(code: int, reason: str, message: str, details: list[Message], **metadata: str) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message[:MAX_TEXT])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    for detail in details:
        status.details.add().Pack(detail)
    return status
