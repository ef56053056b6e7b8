"""Errors of the service.

Errors are raised where they are understood, as one of these classes. `service.handlers.error_statuses` turns them into
gRPC statuses with google.rpc details. Any other exception is a fault of the service and becomes INTERNAL.
"""

from __future__ import annotations

from typing import Literal

TOO_LATE = "the deadline has passed, or is too close for an answer"

UNKNOWN_RETRY = 1.0
"""Retry delay in seconds for a full queue whose speed has not been measured yet."""


class StartError(Exception):
    """A server that cannot start. The message is one line and says what to change."""


class ServiceError(Exception):
    """Base of every error that is reported to callers."""


class InvalidFieldError(ServiceError):
    """An invalid field of a request: INVALID_ARGUMENT.

    Attributes:
        violations: (field path, what is wrong) pairs; a path reads like 'support.examples[0].keypoints[3].x'.
    """

    def __init__(self, field: str, description: str) -> None:
        self.violations: list[tuple[str, str]] = [(field, description)]
        super().__init__(f"{field}: {description}")

    def within(self, prefix: str) -> InvalidFieldError:
        """The same error with `prefix` before its field paths, for a message that is part of another one."""
        field, description = self.violations[0]
        error = InvalidFieldError(f"{prefix}.{field}" if field else prefix, description)
        error.violations += [(f"{prefix}.{path}", text) for path, text in self.violations[1:]]
        return error


class NotFoundError(ServiceError):
    """A resource that does not exist: NOT_FOUND.

    Attributes:
        resource_type: 'cape.v1.Support' or 'cape.v1.Model'.
        resource_name: 'supports/…' or 'models/…'.
    """

    def __init__(self, resource_type: str, resource_name: str, description: str) -> None:
        self.resource_type = resource_type
        self.resource_name = resource_name
        super().__init__(description)


class UnusableSupportError(ServiceError):
    """A support that is valid, but not usable by this model: FAILED_PRECONDITION.

    Attributes:
        subject: 'supports/…' or 'models/…', whichever is the obstacle.
    """

    def __init__(self, subject: str, description: str) -> None:
        self.subject = subject
        super().__init__(description)


class MissingModalityError(UnusableSupportError):
    """A support without a modality that the model needs: FAILED_PRECONDITION."""


class QueueFullError(ServiceError):
    """The bounded queue is full: RESOURCE_EXHAUSTED with RetryInfo.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"the server is full; try again in {retry_after:.2f} s")


class CallerLimitError(ServiceError):
    """A call beyond the quota of its token: RESOURCE_EXHAUSTED with RetryInfo.

    Attributes:
        limit: which: calls in a time, or at a time.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, limit: Literal["rate", "calls"], description: str, retry_after: float) -> None:
        self.limit = limit
        self.retry_after = retry_after
        super().__init__(f"{description} is more than this token allows; try again in {retry_after:.2f} s")


class MessageSizeError(ServiceError):
    """A message larger than its sender's token allows: RESOURCE_EXHAUSTED."""


class StorageFullError(ServiceError):
    """The registry has no room left for new supports: RESOURCE_EXHAUSTED."""


class StorageQuotaError(ServiceError):
    """A tenant has used up its storage quota: RESOURCE_EXHAUSTED with QuotaFailure.

    Attributes:
        tenant: owner of the supports.
        description: bytes used, needed and allowed.
    """

    def __init__(self, tenant: str, used: int, needed: int, allowed: int) -> None:
        self.tenant = tenant
        self.description = f"{used:,} bytes are stored and {needed:,} more are needed; {allowed:,} are allowed"
        super().__init__(f"the storage quota is used up: {self.description}; delete supports to make room")


class DamagedSupportError(ServiceError):
    """A stored support whose bytes have changed, as on a failing disk: DATA_LOSS.

    Attributes:
        name: 'supports/…'.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} is damaged in the registry; delete it and create it again")


class UnauthenticatedError(ServiceError):
    """A call without a valid token: UNAUTHENTICATED."""


class DeadlineError(ServiceError):
    """The caller's deadline has passed or cannot be kept any more: DEADLINE_EXCEEDED."""


class EngineError(ServiceError):
    """An engine failed on a batch, hung, or answered nonsense (NaN, a wrong shape): UNAVAILABLE.

    Attributes:
        component: the component that it was running.
    """

    def __init__(self, component: str, description: str) -> None:
        self.component = component
        super().__init__(f"{component}: {description}")


class UnavailableError(ServiceError):
    """Something that the server depends on is unavailable, or the server is shutting down: UNAVAILABLE."""
