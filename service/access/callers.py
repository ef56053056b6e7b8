"""The caller of a call: its tenant, its quota, and its open streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from service.access.quotas import Quota
from service.errors import UnauthenticatedError


class OpenStreams:
    """The open streams of one token, which end when the token is revoked or expires; for one event loop.

    Attributes:
        revoked: why the token is no longer accepted; empty while it is.
    """

    def __init__(self) -> None:
        self.revoked = ""
        self._tasks: set[asyncio.Task[object]] = set()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Registers the current task as a stream for as long as the block lasts.

        Raises:
            UnauthenticatedError: the token was revoked or has expired while the stream was open.
        """
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self.revoked:
                raise
            task.uncancel()
            raise UnauthenticatedError(self.revoked) from None
        finally:
            self._tasks.discard(task)

    def revoke(self, reason: str) -> None:
        """Ends every open stream with UNAUTHENTICATED.

        Args:
            reason: message for the callers.
        """
        self.revoked = reason
        for task in self._tasks:
            task.cancel()


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """The holder of one API token, or any caller of a server without tokens.

    Attributes:
        tenant: owner of the supports that it registers; several tokens may belong to one tenant.
        token: public id of its token, for logs; '' on a server without tokens.
        quota: limits of the token, and current use.
        streams: open streams of the token.
    """

    tenant: str = ""
    token: str = ""
    quota: Quota = field(default_factory=Quota)
    streams: OpenStreams = field(default_factory=OpenStreams)


EVERYBODY = Caller()
"""The caller on a server without tokens. It has no quota."""

_current: ContextVar[Caller] = ContextVar("caller", default=EVERYBODY)


def set_caller(caller: Caller) -> None:
    """Sets the caller for the current task and the tasks that it starts."""
    _current.set(caller)


def current_caller() -> Caller:
    """The caller of the current call."""
    return _current.get()
