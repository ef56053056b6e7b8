"""The support registry in an SQLite file."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError

from cape.v1 import support_pb2
from service.errors import DamagedSupportError, StorageFullError, StorageQuotaError, UnavailableError
from service.supports.registry import (
    SWEEP_SECONDS,
    Health,
    OwnedName,
    Page,
    RegistryError,
    decode_page_token,
    encode_page_token,
    later_expiry,
    not_found,
    now_nanoseconds,
    without_pixels,
)
from service.supports.sqlite_schema import open_database

RESERVE_BYTES = 1024 * 1024
"""Size of a file beside the database that is given up when the disk is full, so that supports can still be deleted:
SQLite needs room for its log to free any."""

EXPORTED_AT_A_TIME = 16
"""Supports that a backup reads in one go."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class SqliteRegistry:
    """Keeps supports in an SQLite file, which several processes of one machine may share.

    Implements `service.supports.registry.SupportRegistry`. One thread owns the connection, so nothing blocks the event
    loop.
    """

    def __init__(self, path: Path | None) -> None:
        """Opens the file, or creates it.

        Args:
            path: the file; None keeps everything in memory.

        Raises:
            RegistryError: the file cannot be opened or written, or is not a registry of this program.
        """
        self._forget: Callable[[Iterable[OwnedName]], None] = lambda _: None
        self._report: Callable[[Health], None] = lambda _: None
        self._reserve = None if path is None else path.with_name(f"{path.name}-reserve")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        try:
            self._connection = self._thread.submit(open_database, path).result()
        except (sqlite3.Error, OSError, RegistryError) as error:
            self._thread.shutdown()
            raise RegistryError(f"registry {path}: {error}") from None
        self._thread.submit(self._make_reserve)

    async def create(
        self, owner: str, support: support_pb2.Support, *, max_bytes: int = 0
    ) -> tuple[support_pb2.Support, bool]:
        """See `SupportRegistry.create`."""
        stored = support_pb2.Support()
        stored.CopyFrom(support)
        stored.create_time.FromNanoseconds(now_nanoseconds())
        return await self._run(lambda connection: _create(connection, owner, stored, max_bytes), writes=True)

    async def restore(self, owner: str, support: support_pb2.Support) -> bool:
        """See `SupportRegistry.restore`."""
        _, existed = await self._run(lambda connection: _create(connection, owner, support, 0), writes=True)
        return not existed

    async def get(self, owner: str, name: str, *, pixels: bool) -> support_pb2.Support:
        """See `SupportRegistry.get`."""
        column = _column(pixels)
        row = await self._run(
            lambda connection: connection.execute(
                f"SELECT {column}, {column}_checksum, expire_time FROM supports WHERE owner = ? AND name = ?",
                (owner, name),
            ).fetchone(),
            subject=name,
        )
        if row is None or _expired(row[2]):
            raise not_found(name)
        return _support(name, *row)

    async def list(self, owner: str, page_size: int, page_token: str, *, pixels: bool, max_bytes: int) -> Page:
        """See `SupportRegistry.list`. Damaged supports are left out, and logged."""
        after = decode_page_token(page_token)
        return await self._run(lambda connection: _page(connection, owner, after, page_size, pixels, max_bytes))

    async def delete(self, owner: str, name: str) -> None:
        """See `SupportRegistry.delete`. Also works on a full disk."""
        try:
            deleted = await self._run(lambda connection: _delete(connection, [(owner, name)]))
        except StorageFullError:
            deleted = await self._run(lambda connection: self._delete_on_full_disk(connection, owner, name))
        if not deleted:
            raise not_found(name)

    async def open(
        self,
        forget: Callable[[Iterable[OwnedName]], None],
        known: Callable[[], Iterable[OwnedName]],
        report: Callable[[Health], None],
    ) -> None:
        """See `SupportRegistry.open`. Deletions by other processes are not noticed: their supports stay in memory."""
        self._forget = forget
        self._report = report
        report("ok")

    async def maintain(self) -> None:
        """See `SupportRegistry.maintain`."""
        while True:
            with suppress(UnavailableError, StorageFullError):  # already reported
                self._forget(await self._run(_delete_expired))
            await asyncio.sleep(SWEEP_SECONDS)

    async def everything(self) -> AsyncIterator[tuple[str, support_pb2.Support]]:
        """See `SupportRegistry.everything`. Damaged supports are left out, and logged."""
        position = ("", 0)
        while True:
            rows = await self._run(partial(_after, owner=position[0], number=position[1]))
            if not rows:
                return
            for owner, number, name, content, checksum, expire_time in rows:
                position = (owner, number)
                if not _expired(expire_time):
                    with _logged_damage():
                        yield owner, _support(name, content, checksum, expire_time)

    async def close(self) -> None:
        """See `SupportRegistry.close`."""
        await self._run(lambda connection: connection.close())
        self._thread.shutdown()

    async def _run(
        self, work: Callable[[sqlite3.Connection], Result], *, writes: bool = False, subject: str = ""
    ) -> Result:
        """Runs something on the connection in its thread, unless the caller leaves before it has begun.

        Args:
            work: what to run.
            writes: whether success shows that the registry is not full.
            subject: name of the support that is read, which a damaged page makes unreadable.

        Raises:
            StorageFullError: the disk is full.
            DamagedSupportError: `subject` is on a damaged page.
            UnavailableError: the file cannot be read or written.
        """
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, work, self._connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                self._report("full")
                raise StorageFullError("the support registry's disk is full") from None
            self._report("unavailable")
            logger.exception("the support registry failed")
            if code == sqlite3.SQLITE_CORRUPT and subject:
                raise DamagedSupportError(subject) from None
            reason = {sqlite3.SQLITE_READONLY: "is read-only", sqlite3.SQLITE_CORRUPT: "is damaged"}
            text = reason.get(code, "cannot be read or written")
            raise UnavailableError(f"the support registry {text}") from None
        if writes:
            self._report("ok")
        return result

    def _delete_on_full_disk(self, connection: sqlite3.Connection, owner: str, name: str) -> int:
        """Deletes a support with the room of the reserve, and without overwriting its pages, which needs more."""
        if self._reserve is not None:
            self._reserve.unlink(missing_ok=True)
        connection.execute("PRAGMA secure_delete = OFF")
        try:
            return _delete(connection, [(owner, name)])
        finally:
            connection.execute("PRAGMA secure_delete = ON")
            with suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._make_reserve()

    def _make_reserve(self) -> None:
        """Makes the reserve file. Holes would reserve nothing, so its blocks are allocated."""
        if self._reserve is None or self._reserve.exists():
            return
        descriptor = None
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT, 0o600)
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError as error:
            self._reserve.unlink(missing_ok=True)
            logger.warning("no reserve for deletions on a full disk: %s", error)
        finally:
            if descriptor is not None:
                os.close(descriptor)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite has rolled back by itself where the disk is full
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _logged_damage() -> Iterator[None]:
    try:
        yield
    except DamagedSupportError as error:
        logger.error("%s", error)


def _column(pixels: bool) -> str:
    return "support" if pixels else "outline"


def _expired(expire_time: int) -> bool:
    return 0 < expire_time <= now_nanoseconds()


def _support(name: str, content: bytes, checksum: int, expire_time: int) -> support_pb2.Support:
    """Parses a support; raises DamagedSupportError where its bytes have changed."""
    if zlib.crc32(content) != checksum:
        raise DamagedSupportError(name)
    try:
        support = support_pb2.Support.FromString(content)
    except DecodeError:
        raise DamagedSupportError(name) from None
    if expire_time:
        support.expire_time.FromNanoseconds(expire_time)
    return support


def _create(
    connection: sqlite3.Connection, owner: str, support: support_pb2.Support, max_bytes: int
) -> tuple[support_pb2.Support, bool]:
    expire_time = support.expire_time.ToNanoseconds() if support.HasField("expire_time") else 0
    key = (owner, support.name)
    support.ClearField("expire_time")  # may change; it has a column of its own
    outline, content = without_pixels(support).SerializeToString(), support.SerializeToString()
    size = len(outline) + len(content)
    with _transaction(connection):
        row = connection.execute(
            "SELECT outline, outline_checksum, expire_time FROM supports WHERE owner = ? AND name = ?", key
        ).fetchone()
        if row is not None and not _expired(row[2]):
            with _logged_damage():  # a damaged one is replaced below
                later = later_expiry(row[2], expire_time)
                existing = _support(support.name, row[0], row[1], later)
                if later != row[2]:
                    connection.execute(
                        "UPDATE supports SET expire_time = ? WHERE owner = ? AND name = ?", (later, *key)
                    )
                return existing, True
        if row is not None:
            _remove(connection, *key)
        totals = connection.execute("SELECT bytes, last_number FROM owners WHERE owner = ?", (owner,)).fetchone()
        used, last = totals or (0, 0)
        if max_bytes and used + size > max_bytes:
            raise StorageQuotaError(owner, used, size, max_bytes)
        connection.execute(
            "INSERT INTO supports VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (owner, last + 1, support.name, expire_time, zlib.crc32(outline), zlib.crc32(content), outline, content),
        )
        connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?, ?)", (owner, last + 1, used + size))
    return _support(support.name, outline, zlib.crc32(outline), expire_time), False


def _remove(connection: sqlite3.Connection, owner: str, name: str) -> int:
    """Removes a support within a transaction; returns how many there were, 0 or 1."""
    (size,) = connection.execute(
        "SELECT SUM(length(outline) + length(support)) FROM supports WHERE owner = ? AND name = ?", (owner, name)
    ).fetchone()
    connection.execute("UPDATE owners SET bytes = bytes - ? WHERE owner = ?", (size or 0, owner))
    return connection.execute("DELETE FROM supports WHERE owner = ? AND name = ?", (owner, name)).rowcount


def _delete(connection: sqlite3.Connection, supports: Iterable[OwnedName]) -> int:
    with _transaction(connection):
        return sum(_remove(connection, owner, name) for owner, name in supports)


def _delete_expired(connection: sqlite3.Connection) -> list[OwnedName]:
    expired: list[OwnedName] = connection.execute(
        "SELECT owner, name FROM supports WHERE expire_time > 0 AND expire_time <= ?", (now_nanoseconds(),)
    ).fetchall()
    if expired:
        _delete(connection, expired)
        # The log still has the pages as they were.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        logger.info("%d expired supports deleted", len(expired))
    return expired


def _page(connection: sqlite3.Connection, owner: str, after: int, page_size: int, pixels: bool, max_bytes: int) -> Page:
    column = _column(pixels)
    rows = connection.execute(
        f"SELECT number, name, {column}, {column}_checksum, expire_time FROM supports WHERE owner = ? AND number > ? "
        "AND (expire_time = 0 OR expire_time > ?) ORDER BY number",
        (owner, after, now_nanoseconds()),
    )
    supports: list[support_pb2.Support] = []
    size = 0
    token = ""
    for number, name, *columns in rows:
        size += len(columns[0])
        if supports and (len(supports) == page_size or size > max_bytes):
            return Page(supports, token)
        with _logged_damage():
            supports.append(_support(name, *columns))
            token = encode_page_token(number)
    return Page(supports, "")


def _after(connection: sqlite3.Connection, owner: str, number: int) -> list[tuple[str, int, str, bytes, int, int]]:
    """The supports that follow a position in a backup."""
    return connection.execute(
        "SELECT owner, number, name, support, support_checksum, expire_time FROM supports "
        "WHERE (owner, number) > (?, ?) ORDER BY owner, number LIMIT ?",
        (owner, number, EXPORTED_AT_A_TIME),
    ).fetchall()
