"""Outcomes of queries, as service level objectives and autoscalers need them: whose fault was it?

A gRPC status does not say: RESOURCE_EXHAUSTED is a full server, or a tenant over its own limit; and a batch or stream
that ends with OK may hold items that failed.
"""

from __future__ import annotations

import asyncio
from typing import Literal, get_args

from service.errors import (
    CallerLimitError,
    DamagedSupportError,
    DeadlineError,
    EngineError,
    MessageSizeError,
    QueueFullError,
    ServiceError,
    StorageFullError,
    StorageQuotaError,
    UnavailableError,
)

Outcome = Literal["answered", "invalid", "limited", "cancelled", "refused", "late", "failed"]
"""Outcome of one query.

answered: it has an answer. invalid: the caller's mistake. limited: over a limit of the caller's own token.
cancelled: the caller left. refused: the server is full. late: its deadline has passed. failed: the server's fault.
"""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def outcome_of(error: BaseException | None) -> Outcome:
    """Classifies what a query ended with; None: an answer."""
    match error:
        case None:
            return "answered"
        case CallerLimitError() | MessageSizeError() | StorageQuotaError():
            return "limited"
        case QueueFullError() | StorageFullError():
            return "refused"
        case DeadlineError():
            return "late"
        case asyncio.CancelledError():
            return "cancelled"
        case EngineError() | UnavailableError() | DamagedSupportError():
            return "failed"
        case ServiceError():
            return "invalid"
        case _:
            return "failed"
