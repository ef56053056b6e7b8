"""Schema of the SQLite registry, and its migrations."""

from __future__ import annotations

import os
import sqlite3
import stat
import zlib
from pathlib import Path

from service.supports.registry import RegistryError

SCHEMA_VERSION = 3
"""Stored in SQLite's user_version. A file of a later version is refused."""

SCHEMA = """
CREATE TABLE supports (
    owner TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    expire_time INTEGER NOT NULL,
    outline_checksum INTEGER NOT NULL,
    support_checksum INTEGER NOT NULL,
    outline BLOB NOT NULL,
    support BLOB NOT NULL,
    PRIMARY KEY (owner, number),
    UNIQUE (owner, name)
);
CREATE INDEX supports_by_expiry ON supports (expire_time) WHERE expire_time > 0;
CREATE TABLE owners (owner TEXT PRIMARY KEY, last_number INTEGER NOT NULL, bytes INTEGER NOT NULL);
"""
"""`number` is the order of creation among an owner's supports: clocks jump, and two supports may be created at the same
time. `expire_time` is in nanoseconds since 1970, 0: never. `outline` is the support without pixels; it precedes the
large column so that reading it does not touch that. `owners.bytes` is the size of an owner's outlines and supports."""

FROM_VERSION_1 = """
ALTER TABLE supports RENAME TO version_1;
DROP INDEX supports_by_age;
CREATE TABLE supports (number INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT, name TEXT, outline BLOB, support BLOB);
INSERT INTO supports (owner, name, outline, support)
    SELECT '', name, outline, support FROM version_1 ORDER BY create_time, name;
DROP TABLE version_1;
"""
"""Version 1 had no owners: its supports belong to callers without a token."""

FROM_VERSION_2 = f"""
ALTER TABLE supports RENAME TO version_2;
DROP INDEX IF EXISTS supports_by_age;
{SCHEMA}
INSERT INTO supports SELECT owner, number, name, 0, crc32(outline), crc32(support), outline, support FROM version_2;
INSERT INTO owners SELECT owner, MAX(number), SUM(length(outline) + length(support)) FROM version_2 GROUP BY owner;
DROP TABLE version_2;
"""

BUSY_SECONDS = 5.0
"""How long to wait for another process that writes to the same file."""


def open_database(path: Path | None) -> sqlite3.Connection:
    """Opens a registry's database, and creates or migrates it where necessary.

    A new file is readable by its owner only, because supports contain customers' images.

    Args:
        path: the file; None keeps everything in memory.

    Raises:
        sqlite3.Error, OSError: the file cannot be opened, read or written.
        RegistryError: the file is of a later version.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives its write-ahead log the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, stat.S_IRUSR | stat.S_IWUSR))
    # Autocommit: transactions are explicit.
    connection = sqlite3.connect(path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None)
    connection.create_function("crc32", 1, zlib.crc32, deterministic=True)
    # With a write-ahead log other processes can read during a write. FULL survives a power cut too.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # Deleted images are overwritten, not just unlinked.
    connection.execute("PRAGMA secure_delete = ON")
    # Two processes may open a new file at the same time: only one of them may find it empty.
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        connection.close()
        raise RegistryError(f"schema version {version}; this program knows versions up to {SCHEMA_VERSION}")
    scripts = {0: (SCHEMA,), 1: (FROM_VERSION_1, FROM_VERSION_2), 2: (FROM_VERSION_2,)}.get(version, ())
    for statement in filter(str.strip, ";".join(scripts).split(";")):
        connection.execute(statement)
    # Also writes to a file of the current version, so that a read-only file is refused at start.
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")
    return connection
