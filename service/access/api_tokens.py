"""API tokens: their format, the file that lists them, and the lookup of a token's caller.

A token is `cape_{id}_{secret}`. The secret has 256 random bits, so an unsalted SHA-256 is enough to store it: it cannot
be guessed, and a slow hash would add nothing. The file holds digests only; reading it does not let anyone call.

    tokens:
    - id: 3f9a0c1d
      tenant: acme
      sha256: 9b74…
      requests_per_second: 50     # this and the fields below are optional; absent: no limit
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
from dataclasses import dataclass, replace
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
"""A tenant's name. It is part of keys and log lines, so it has no characters with a meaning there."""


class TokenFileError(Exception):
    """A token file that cannot be used. The message is one line and contains nothing of a token."""


class TokenEntry(BaseModel):
    """One token of the file; the module docstring shows the fields."""

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
    """Content of a token file."""

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
    """The tokens of a server. Immutable: `updated` makes the next version."""

    def __init__(self, file: TokenFile) -> None:
        self._known = {entry.id: _Known(entry, _caller(entry)) for entry in file.tokens}

    def __len__(self) -> int:
        return len(self._known)

    def updated(self, file: TokenFile) -> Tokens:
        """The tokens of a changed file.

        Unchanged tokens keep their use counts, so that a reload does not grant a new burst. Open streams of tokens
        that are gone, or now have another secret or tenant, end with UNAUTHENTICATED.
        """
        tokens = Tokens(file)
        for number, before in self._known.items():
            now = tokens._known.get(number)
            if now is None or (now.entry.sha256, now.entry.tenant) != (before.entry.sha256, before.entry.tenant):
                before.caller.streams.revoke("the token has been revoked")
            elif now.entry == before.entry:
                tokens._known[number] = before
            else:
                # Streams of the old entry go on under its limits, and still end with a later revocation.
                tokens._known[number] = _Known(now.entry, replace(now.caller, streams=before.caller.streams))
        return tokens

    def end_expired(self, now: datetime) -> None:
        """Ends the open streams of tokens that have expired."""
        for known in self._known.values():
            if known.entry.expires is not None and now >= known.entry.expires and not known.caller.streams.revoked:
                known.caller.streams.revoke("the token has expired")

    def caller(self, token: str, now: datetime) -> Caller:
        """The caller that holds a token.

        Every invalid token takes the same time, whatever it has in common with a valid one: digests are compared in
        constant time, and an unknown id is compared too.

        Raises:
            UnauthenticatedError: the token is unknown or has expired.
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
    """SHA-256 of a token in hexadecimal, as the file stores it."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def new_token() -> tuple[str, str]:
    """Makes a token; returns its id and the token itself, which cannot be recovered later."""
    number = secrets.token_hex(4)
    return number, f"cape_{number}_{secrets.token_urlsafe(32)}"


def read_tokens(path: Path) -> TokenFile:
    """Reads a token file.

    Raises:
        TokenFileError: the file cannot be read, or is not a token file.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TokenFile.model_validate(document)
    except OSError as error:
        raise TokenFileError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise TokenFileError(f"{path}: not YAML") from None
    except ValidationError as error:  # before ValueError, which is its base
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TokenFileError(f"{path}: {place}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        # PyYAML builds dates itself: month 13 is a ValueError.
        raise TokenFileError(f"{path}: a value that YAML cannot read: {str(error)[:100]}") from None


def write_tokens(path: Path, content: TokenFile) -> None:
    """Writes a token file with mode 0600. A concurrent reader gets either the old or the new content.

    Raises:
        TokenFileError: the file cannot be written.
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
    """Current time, which the expiry of tokens is compared with."""
    return datetime.now(UTC)
