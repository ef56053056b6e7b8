"""What can go wrong, in the service's own words.

Errors are raised where they are understood, as one of these; `service.handlers.error_statuses` turns them into gRPC
statuses with google.rpc details. Anything else that escapes is our own fault, and becomes INTERNAL.
"""

from __future__ import annotations

from typing import Literal


class StartError(Exception):
    """A server that cannot start; the message is one line and says what to change."""


class ServiceError(Exception):
    """Base of every error that a caller is told about."""


class InvalidFieldError(ServiceError):
    """Something wrong in a request: INVALID_ARGUMENT.

    Attributes:
        violations: (field path, what is wrong) pairs; a path reads like 'support.examples[0].keypoints[3].x'.
    """

    def __init__(self, field: str, description: str) -> None:
        self.violations: list[tuple[str, str]] = [(field, description)]
        super().__init__(f"{field}: {description}")

    def within(self, prefix: str) -> InvalidFieldError:
        """The same error, with `prefix` before its field paths: where a message is part of another."""
        field, description = self.violations[0]
        error = InvalidFieldError(f"{prefix}.{field}" if field else prefix, description)
        error.violations += [(f"{prefix}.{path}", text) for path, text in self.violations[1:]]
        return error


class NotFoundError(ServiceError):
    """A resource that is not there: NOT_FOUND.

    Attributes:
        resource_type: 'cape.v1.Support' or 'cape.v1.Model'.
        resource_name: 'supports/…' or 'models/…'.
    """

    def __init__(self, resource_type: str, resource_name: str, description: str) -> None:
        self.resource_type = resource_type
        self.resource_name = resource_name
        super().__init__(description)


class UnusableSupportError(ServiceError):
    """A support that is right in itself but of no use here: FAILED_PRECONDITION.

    Attributes:
        subject: 'supports/…' or 'models/…', whatever is in the way.
    """

    def __init__(self, subject: str, description: str) -> None:
        self.subject = subject
        super().__init__(description)


class MissingModalityError(UnusableSupportError):
    """A support that lacks what a system needs: FAILED_PRECONDITION."""


class QueueFullError(ServiceError):
    """The bounded queue is full: RESOURCE_EXHAUSTED with RetryInfo.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"the server is full; try again in {retry_after:.2f} s")


class CallerLimitError(ServiceError):
    """A caller wants more than its token allows: RESOURCE_EXHAUSTED with RetryInfo.

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


class UnauthenticatedError(ServiceError):
    """A call without a token, or with one that is not good here: UNAUTHENTICATED."""


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
    """Something that the server needs is not there, or the server is shutting down: UNAVAILABLE."""
