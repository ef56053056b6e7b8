"""The audit log: one line a call, with who called what from where and how it ended, where callers have tokens.

The logger is `service.access.audit`, so that its lines can be filtered. A token appears as its id, never as itself.
"""

from __future__ import annotations

import logging

import grpc

from service.access.callers import Caller
from service.access.quotas import Quota
from service.errors import CallerLimitError, UnauthenticatedError

logger = logging.getLogger(__name__)

MAX_METHOD = 100
"""Characters of a method's path that are logged; strangers choose it."""


class Audit:
    """Writes the lines."""

    def __init__(self) -> None:
        # A stranger who tries thousands of tokens a second must not fill the disk; the metrics count them all.
        self._refusals = Quota(requests_per_second=10, burst=50)

    def answered(self, caller: Caller, method: str, peer: str, code: grpc.StatusCode, seconds: float) -> None:
        """A caller's call has ended."""
        logger.info(
            "call method=%s tenant=%s token=%s peer=%s code=%s ms=%.1f",
            method,
            caller.tenant,
            caller.token,
            peer,
            code.name,
            seconds * 1e3,
        )

    def refused(self, path: str, peer: str, error: UnauthenticatedError) -> None:
        """Somebody was not let in."""
        try:
            self._refusals.count_request()
        except CallerLimitError:
            return
        logger.warning("refused method=%r peer=%s code=UNAUTHENTICATED reason=%r", path[:MAX_METHOD], peer, str(error))
