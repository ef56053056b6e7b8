"""Who is calling: the tenant behind a call, and what it may use."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from service.access.quotas import Quota


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """Whoever holds one API token; everybody, where the server asks for none.

    Attributes:
        tenant: owner of what it registers; several tokens may belong to one tenant.
        token: public part of its token, for logs; '' where the server asks for none.
        quota: what it may use, and what it uses now.
    """

    tenant: str = ""
    token: str = ""
    quota: Quota = field(default_factory=Quota)


EVERYBODY = Caller()
"""The caller of a server that asks for no tokens; it has no limits of its own."""

_current: ContextVar[Caller] = ContextVar("caller", default=EVERYBODY)


def set_caller(caller: Caller) -> None:
    """Says who is calling, for the task of the call and all that it starts."""
    _current.set(caller)


def current_caller() -> Caller:
    """Who the call is from that is being answered."""
    return _current.get()
