"""The support registry in an SQLite file."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cape.v1 import support_pb2
from service.errors import UnavailableError
from service.supports.registry import (
    OwnedName,
    Page,
    RegistryError,
    decode_page_token,
    encode_page_token,
    not_found,
    without_pixels,
)

SCHEMA_VERSION = 2
"""Stored in SQLite's user_version; a file of a later version is refused rather than misread."""

SCHEMA = """
CREATE TABLE supports (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    outline BLOB NOT NULL,
    support BLOB NOT NULL,
    UNIQUE (owner, name)
);
CREATE INDEX supports_by_age ON supports (owner, number);
"""
"""`outline` is the support without pixels, before the large column so that reading it never touches that. `number`
is the order of creation: clocks jump, and two supports may be created at the same time."""

FROM_VERSION_1 = f"""
ALTER TABLE supports RENAME TO old_supports;
DROP INDEX supports_by_age;
{SCHEMA}
INSERT INTO supports (owner, name, outline, support)
    SELECT '', name, outline, support FROM old_supports ORDER BY create_time, name;
DROP TABLE old_supports;
"""
"""Version 1 knew no owners: what it kept belongs to callers without a token."""

BUSY_SECONDS = 5.0
"""How long to wait for another process that is writing to the same file."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class SqliteRegistry:
    """Keeps supports in an SQLite file, which several processes of one machine may share.

    Satisfies `service.supports.registry.SupportRegistry`. One thread owns the connection: nothing blocks the loop.
    """

    def __init__(self, path: Path | None) -> None:
        """Opens the file, and creates it where it is not there.

        Args:
            path: the file; None keeps everything in memory.

        Raises:
            RegistryError: the file cannot be opened or written, or is not a registry that we can read.
        """
        self._report: Callable[[bool], None] = lambda _: None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        try:
            self._connection = self._thread.submit(_open, path).result()
        except (sqlite3.Error, OSError, RegistryError) as error:
            self._thread.shutdown()
            raise RegistryError(f"registry {path}: {error}") from None

    async def create(self, owner: str, support: support_pb2.Support) -> tuple[support_pb2.Support, bool]:
        """See `SupportRegistry.create`."""
        return await self._run(lambda connection: _create(connection, owner, support))

    async def get(self, owner: str, name: str, *, pixels: bool) -> support_pb2.Support:
        """See `SupportRegistry.get`."""
        column = "support" if pixels else "outline"
        row = await self._run(
            lambda connection: connection.execute(
                f"SELECT {column} FROM supports WHERE owner = ? AND name = ?", (owner, name)
            ).fetchone()
        )
        if row is None:
            raise not_found(name)
        return support_pb2.Support.FromString(row[0])

    async def list(self, owner: str, page_size: int, page_token: str, *, pixels: bool, max_bytes: int) -> Page:
        """See `SupportRegistry.list`."""
        after = decode_page_token(page_token)
        return await self._run(lambda connection: _page(connection, owner, after, page_size, pixels, max_bytes))

    async def delete(self, owner: str, name: str) -> None:
        """See `SupportRegistry.delete`."""
        deleted = await self._run(
            lambda connection: (
                connection.execute("DELETE FROM supports WHERE owner = ? AND name = ?", (owner, name)).rowcount
            )
        )
        if not deleted:
            raise not_found(name)

    async def open(
        self,
        forget: Callable[[str, str], None],
        known: Callable[[], Iterable[OwnedName]],
        report: Callable[[bool], None],
    ) -> None:
        """See `SupportRegistry.open`. Tells of nothing: what another process deletes stays in this one's memory."""
        self._report = report

    async def close(self) -> None:
        """See `SupportRegistry.close`."""
        await self._run(lambda connection: connection.close())
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Runs something on the connection in its thread; dropped if the caller leaves before it has begun.

        Raises:
            UnavailableError: the file cannot be read or written any more.
        """
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, work, self._connection)
            self._report(True)
            return result
        except sqlite3.Error:
            self._report(False)
            logger.exception("the support registry failed")
            raise UnavailableError("the support registry cannot be read or written") from None


def _open(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Autocommit: every statement here is a transaction of its own.
    connection = sqlite3.connect(path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None)
    # A write-ahead log lets other processes read on; FULL makes what was answered survive a power cut too.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # Two processes may open a new file at the same time: only one may find it empty.
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < SCHEMA_VERSION:
        for statement in filter(str.strip, (FROM_VERSION_1 if version else SCHEMA).split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")
    if version > SCHEMA_VERSION:
        connection.close()
        raise RegistryError(f"schema version {version}; this program knows {SCHEMA_VERSION}")
    return connection


def _create(
    connection: sqlite3.Connection, owner: str, support: support_pb2.Support
) -> tuple[support_pb2.Support, bool]:
    kept = support_pb2.Support()
    kept.CopyFrom(support)
    kept.create_time.FromNanoseconds(time.time_ns())
    outline = without_pixels(kept)
    inserted = connection.execute(
        "INSERT INTO supports (owner, name, outline, support) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (owner, kept.name, outline.SerializeToString(), kept.SerializeToString()),
    ).rowcount
    if inserted:
        return outline, False
    row = connection.execute("SELECT outline FROM supports WHERE owner = ? AND name = ?", (owner, kept.name)).fetchone()
    return support_pb2.Support.FromString(row[0]), True


def _page(connection: sqlite3.Connection, owner: str, after: int, page_size: int, pixels: bool, max_bytes: int) -> Page:
    column = "support" if pixels else "outline"
    rows = connection.execute(
        f"SELECT number, {column} FROM supports WHERE owner = ? AND number > ? ORDER BY number LIMIT ?",
        (owner, after, page_size + 1),
    )
    supports: list[support_pb2.Support] = []
    size = 0
    token = ""
    for number, content in rows:
        size += len(content)
        if supports and (len(supports) == page_size or size > max_bytes):
            return Page(supports, token)
        supports.append(support_pb2.Support.FromString(content))
        token = encode_page_token(number)
    return Page(supports, "")
