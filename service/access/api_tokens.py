"""API tokens: what they look like, the file that lists them, and whose a token is.

A token is `cape_{id}_{secret}`. The secret has 256 random bits, so one SHA-256 keeps it: there is nothing to guess,
and nothing that a slow hash would slow down. The file holds digests only; who reads it cannot call anything.

    tokens:
    - id: 3f9a0c1d
      tenant: acme
      sha256: 9b74…
      requests_per_second: 50     # this and all below may be left out: no limit
      burst: 100
      max_in_flight: 16
      max_message_bytes: 8MiB
      expires: 2027-01-01T00:00:00Z
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import AwareDatetime, BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from service.access.callers import Caller
from service.access.quotas import Quota
from service.errors import UnauthenticatedError

TOKEN = re.compile(r"cape_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")

Tenant = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]
"""A tenant's name: it becomes part of keys and of log lines, so it holds nothing that means anything there."""


class TokenFileError(Exception):
    """A token file that cannot be used; the message is one line, and holds nothing of a token."""


class TokenEntry(BaseModel):
    """One token of the file; see the module."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    tenant: Tenant
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    requests_per_second: float | None = Field(None, gt=0)
    burst: int | None = Field(None, ge=1)
    max_in_flight: int | None = Field(None, ge=1)
    max_message_bytes: ByteSize | None = Field(None, ge=1024)
    expires: AwareDatetime | None = None


class TokenFile(BaseModel):
    """What a token file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    tokens: tuple[TokenEntry, ...]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        if len({entry.id for entry in self.tokens}) < len(self.tokens):
            raise ValueError("an id occurs twice")
        return self


@dataclass(frozen=True, slots=True)
class _Known:
    entry: TokenEntry
    caller: Caller


class Tokens:
    """The tokens of a server. An immutable set: `updated` makes the next one."""

    def __init__(self, file: TokenFile) -> None:
        self._known = {entry.id: _Known(entry, _caller(entry)) for entry in file.tokens}

    def __len__(self) -> int:
        return len(self._known)

    def updated(self, file: TokenFile) -> Tokens:
        """The tokens of a changed file. What has not changed keeps its counts: a reload gives nobody a new burst."""
        tokens = Tokens(file)
        for number, known in tokens._known.items():
            before = self._known.get(number)
            if before is not None and before.entry == known.entry:
                tokens._known[number] = before
        return tokens

    def caller(self, token: str, now: datetime) -> Caller:
        """Whose a token is.

        Takes the same time for every token that is not good, whatever it has in common with one that is: digests
        are compared, in constant time, and an id that is not there costs a comparison too.

        Raises:
            UnauthenticatedError: nobody's, or it has expired.
        """
        match = TOKEN.fullmatch(token)
        known = self._known.get(match[1]) if match else None
        expected = known.entry.sha256 if known else "0" * 64
        if not hmac.compare_digest(digest(token), expected) or known is None:
            raise UnauthenticatedError("the token is not one of this server's")
        if known.entry.expires is not None and now >= known.entry.expires:
            raise UnauthenticatedError("the token has expired")
        return known.caller


def digest(token: str) -> str:
    """What the file keeps of a token: its SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def new_token() -> tuple[str, str]:
    """Makes a token; returns its id and the token itself, which nobody can find out again."""
    number = secrets.token_hex(4)
    return number, f"cape_{number}_{secrets.token_urlsafe(32)}"


def read_tokens(path: Path) -> TokenFile:
    """Reads a token file.

    Raises:
        TokenFileError: it cannot be read, or is none.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TokenFile.model_validate(document)
    except OSError as error:
        raise TokenFileError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise TokenFileError(f"{path}: not YAML") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TokenFileError(f"{path}: {place}: {first['msg']}") from None


def write_tokens(path: Path, content: TokenFile) -> None:
    """Writes a token file that only its owner can read; whoever reads it meanwhile gets the old one or the new one.

    Raises:
        TokenFileError: it cannot be written.
    """
    document = content.model_dump(mode="json", exclude_none=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        beside.touch(mode=0o600, exist_ok=False)
        beside.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise TokenFileError(f"{path}: {error.strerror}") from None


def _caller(entry: TokenEntry) -> Caller:
    quota = Quota(
        requests_per_second=entry.requests_per_second,
        burst=entry.burst,
        max_in_flight=entry.max_in_flight,
        max_message_bytes=entry.max_message_bytes,
    )
    return Caller(entry.tenant, entry.id, quota)


def utc_now() -> datetime:
    """The time that tokens expire by."""
    return datetime.now(UTC)
