"""The interface of a support registry, and the paging of its lists.

`SqliteRegistry` keeps supports in a file on one machine, `RedisRegistry` in a database that replicas share. Every
support belongs to an owner: a tenant, or '' on a server without API tokens. Owners do not see each other's supports,
nor whether they exist: a name that another owner has is NOT_FOUND.
"""

from __future__ import annotations

import base64
import binascii
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from cape.v1 import support_pb2
from service.errors import InvalidFieldError, NotFoundError

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1_000

SWEEP_SECONDS = 60.0
"""How often expired supports are deleted. Until then they are NOT_FOUND already."""

OwnedName: TypeAlias = tuple[str, str]
"""Owner and name of a support, which together identify it."""

Health = Literal["ok", "full", "unavailable"]
"""'full': supports can be read and deleted, but not created."""

PAGE_TOKEN_VERSION = b"o"
"""First byte of a page token. Version 'n' counted over all owners, so tokens told how many supports others created."""


class RegistryError(Exception):
    """A registry that cannot be opened. The message is one line."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list of supports.

    Attributes:
        supports: oldest first.
        next_page_token: position of the next page; empty on the last one.
    """

    supports: list[support_pb2.Support]
    next_page_token: str


class SupportRegistry(Protocol):
    """Stores validated supports by owner and name. A support whose creation was answered survives a crash."""

    async def create(
        self, owner: str, support: support_pb2.Support, *, max_bytes: int = 0
    ) -> tuple[support_pb2.Support, bool]:
        """Stores a support under `support.name`.

        A support that exists already is not stored again. Its expiry moves to the later of both, and it never expires
        if either does not.

        Args:
            owner: of the support.
            support: validated; `expire_time` is when it expires, absent: never.
            max_bytes: most bytes that the supports of `owner` may take; 0: no limit.

        Returns:
            The stored support without the pixels of its examples, and whether it existed already.

        Raises:
            StorageFullError: the registry has no room.
            StorageQuotaError: `max_bytes` would be exceeded.
            UnavailableError: the registry cannot be reached or used.
        """

    async def get(self, owner: str, name: str, *, pixels: bool) -> support_pb2.Support:
        """Returns a support, with or without the pixels of its examples.

        Raises:
            NotFoundError: `owner` has no support of that name, or it has expired.
            DamagedSupportError: its bytes have changed.
            UnavailableError: the registry cannot be reached or used.
        """

    async def list(self, owner: str, page_size: int, page_token: str, *, pixels: bool, max_bytes: int) -> Page:
        """Returns a page of an owner's supports in the order of their creation, which does not depend on clocks.

        Args:
            owner: of the supports.
            page_size: most supports to return, at least 1.
            page_token: of the page before, or empty.
            pixels: whether to include the pixels of the examples.
            max_bytes: the page ends before it exceeds this size, but has at least one support.

        Raises:
            InvalidFieldError: field 'page_token'.
            UnavailableError: the registry cannot be reached or used.
        """

    async def delete(self, owner: str, name: str) -> None:
        """Deletes a support, images included.

        Raises:
            NotFoundError: `owner` has no support of that name.
            UnavailableError: the registry cannot be reached or used.
        """

    async def open(
        self,
        forget: Callable[[Iterable[OwnedName]], None],
        known: Callable[[], Iterable[OwnedName]],
        report: Callable[[Health], None],
    ) -> None:
        """Connects.

        Args:
            forget: called with supports that another process has deleted, or that have expired.
            known: returns the supports that are in memory, to look up which of them still exist.
            report: called with the health of the registry whenever it changes.

        Raises:
            RegistryError: the registry cannot work with this configuration.
        """

    async def maintain(self) -> None:
        """Receives deletions by other processes and deletes expired supports, until cancelled."""

    def everything(self) -> AsyncIterator[tuple[str, support_pb2.Support]]:
        """Every owner and support, for a backup, in the order of creation of each owner's supports."""

    async def restore(self, owner: str, support: support_pb2.Support) -> bool:
        """Stores a support of a backup with its `create_time`; returns whether it was missing."""

    async def close(self) -> None:
        """Closes connections and files."""


def not_found(name: str) -> NotFoundError:
    """The error for a support that does not exist."""
    return NotFoundError("cape.v1.Support", name, f"there is no support {name!r}")


def now_nanoseconds() -> int:
    """Current time in nanoseconds since 1970, which expiry is compared with."""
    return time.time_ns()


def without_pixels(support: support_pb2.Support) -> support_pb2.Support:
    """A copy of a support whose examples have no images."""
    outline = support_pb2.Support(
        name=support.name,
        category=support.category,
        keypoints=support.keypoints,
        skeleton=support.skeleton,
        modalities=support.modalities,
    )
    for field in ("create_time", "expire_time"):
        if support.HasField(field):
            getattr(outline, field).CopyFrom(getattr(support, field))
    for example in support.examples:
        copy = outline.examples.add(keypoints=example.keypoints)
        if example.HasField("box"):
            copy.box.CopyFrom(example.box)
    return outline


def later_expiry(first: int, second: int) -> int:
    """The later of two expiry times in nanoseconds since 1970, where 0 is never."""
    return max(first, second) if first and second else 0


def page_size_of(requested: int) -> int:
    """The page size to use: 0 means the default, and larger values than the maximum mean the maximum (AIP-158).

    Raises:
        InvalidFieldError: field 'page_size' is negative.
    """
    if requested < 0:
        raise InvalidFieldError("page_size", f"{requested}; must not be negative")
    return min(requested, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def encode_page_token(number: int) -> str:
    """An opaque token for the page after a support, given the support's number in its owner's order of creation."""
    return base64.urlsafe_b64encode(PAGE_TOKEN_VERSION + struct.pack(">Q", number)).decode()


def decode_page_token(token: str) -> int:
    """The number after which a page begins; 0, the beginning, for an empty token.

    Raises:
        InvalidFieldError: field 'page_token', not a token of this server.
    """
    if not token:
        return 0
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
        if content[:1] == PAGE_TOKEN_VERSION:
            (number,) = struct.unpack(">Q", content[1:])
            if number < 2**63:
                return int(number)
    except (binascii.Error, struct.error, ValueError):
        pass
    raise InvalidFieldError("page_token", "not a token that this server gave out")
