"""Where registered supports are kept, as an interface; and how lists are paged.

`SqliteRegistry` keeps them in a file of one machine, `RedisRegistry` where several replicas share them. A support
belongs to an owner, a tenant of the server; without API tokens there is one, ''. Nobody sees another's supports,
not even that they exist: a name that somebody else owns is a name that is not there.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from cape.v1 import support_pb2
from service.errors import InvalidFieldError, NotFoundError

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1_000


OwnedName = tuple[str, str]
"""A support's owner and its name: only both together say which one is meant."""

FIRST = b"n"
"""What a page token begins with. Tokens of older versions held a time instead of a number, and the first byte of
that is another one until the year 2221."""


class RegistryError(Exception):
    """A registry that cannot be opened; the message is one line."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the list of supports.

    Attributes:
        supports: oldest first.
        next_page_token: where the next page begins; empty on the last one.
    """

    supports: list[support_pb2.Support]
    next_page_token: str


class SupportRegistry(Protocol):
    """Keeps checked supports by owner and their content's name. What it returned as created survives a crash."""

    async def create(self, owner: str, support: support_pb2.Support) -> tuple[support_pb2.Support, bool]:
        """Keeps a support of `owner` under `support.name`.

        Returns:
            The support as it is kept, with its create_time but without the pixels of its examples; and
            whether it was there already, in which case the one that was there is returned.
        """

    async def get(self, owner: str, name: str, *, pixels: bool) -> support_pb2.Support:
        """Returns a support, with or without the pixels of its examples.

        Raises:
            NotFoundError: no support of `owner` has that name.
        """

    async def list(self, owner: str, page_size: int, page_token: str, *, pixels: bool, max_bytes: int) -> Page:
        """Returns a page of an owner's supports, in the order in which they were created, whatever clocks say.

        Args:
            owner: whose supports.
            page_size: most supports to return, at least 1.
            page_token: of the page before, or empty.
            pixels: with the pixels of the examples.
            max_bytes: the page ends before it grows beyond this, though never before its first support.

        Raises:
            InvalidFieldError: field 'page_token'.
        """

    async def delete(self, owner: str, name: str) -> None:
        """Removes a support.

        Raises:
            NotFoundError: no support of `owner` has that name.
        """

    async def open(
        self,
        forget: Callable[[str, str], None],
        known: Callable[[], Iterable[OwnedName]],
        report: Callable[[bool], None],
    ) -> None:
        """Begins to work, and to tell of supports that another replica has deleted.

        Args:
            forget: called with owner and name of a support that is gone.
            known: the supports that are held in memory, asked for where deletions may have gone unheard.
            report: told whether the registry can be used, whenever that changes.

        Raises:
            RegistryError: it will never work as it is set up.
        """

    async def close(self) -> None:
        """Writes what is left to write, and frees what is held."""


def not_found(name: str) -> NotFoundError:
    """The error for a support that is not there."""
    return NotFoundError("cape.v1.Support", name, f"there is no support {name!r}")


def without_pixels(support: support_pb2.Support) -> support_pb2.Support:
    """A copy of a support in which the examples have no images."""
    outline = support_pb2.Support(
        name=support.name,
        category=support.category,
        keypoints=support.keypoints,
        skeleton=support.skeleton,
        modalities=support.modalities,
    )
    if support.HasField("create_time"):
        outline.create_time.CopyFrom(support.create_time)
    for example in support.examples:
        copy = outline.examples.add(keypoints=example.keypoints)
        if example.HasField("box"):
            copy.box.CopyFrom(example.box)
    return outline


def page_size_of(requested: int) -> int:
    """The page size that a request means: 0 is the default, too many are as many as there may be (AIP-158).

    Raises:
        InvalidFieldError: field 'page_size', a negative one.
    """
    if requested < 0:
        raise InvalidFieldError("page_size", f"{requested}; must not be negative")
    return min(requested, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def encode_page_token(number: int) -> str:
    """An opaque token for what comes after a support, given its place in the order of creation."""
    return base64.urlsafe_b64encode(FIRST + struct.pack(">Q", number)).decode()


def decode_page_token(token: str) -> int:
    """The number after which a page begins; 0, before everything, for an empty token.

    Raises:
        InvalidFieldError: field 'page_token', not one of ours.
    """
    if not token:
        return 0
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
        if content[:1] == FIRST:
            (number,) = struct.unpack(">Q", content[1:])
            if number < 2**63:
                return int(number)
    except (binascii.Error, struct.error, ValueError):
        pass
    raise InvalidFieldError("page_token", "not a token that this server gave out")
