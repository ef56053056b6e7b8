"""The SQLite registry: its file survives restarts, kill -9 and upgrades, and bad ones are refused."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from service.application import open_registry
from service.errors import UnavailableError
from service.supports.registry import RegistryError
from service.supports.sqlite import SqliteRegistry
from tests.service.supports.test_registry import named, names_of

VERSION_1 = """
CREATE TABLE supports (
    name TEXT PRIMARY KEY,
    create_time INTEGER NOT NULL,
    outline BLOB NOT NULL,
    support BLOB NOT NULL
);
CREATE INDEX supports_by_age ON supports (create_time, name);
PRAGMA user_version = 1;
"""


async def test_a_file_of_version_1_is_taken_over_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "supports.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
        for number, create_time in ((1, 30), (2, 10), (3, 20)):
            content = named(number).SerializeToString()
            connection.execute(
                "INSERT INTO supports VALUES (?, ?, ?, ?)", (named(number).name, create_time, b"", content)
            )
    connection.close()
    for _ in range(2):
        registry = SqliteRegistry(path)
        assert await names_of(registry) == [[named(number).name for number in (2, 3, 1)]]
        assert await registry.get("", named(1).name, pixels=True) == named(1)
        await registry.close()


async def test_a_full_disk_refuses_what_is_new_and_keeps_what_is_there(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "supports.sqlite3")
    healthy: list[bool] = []
    await registry.open(lambda owner, name: None, lambda: (), healthy.append)
    await registry.create("", named(1))
    pages = registry._connection.execute  # SQLite itself says "database or disk is full" at this limit
    await registry._run(lambda connection: pages("PRAGMA max_page_count = 1"))
    with pytest.raises(UnavailableError, match="cannot be read or written"):
        for number in range(2, 50):
            await registry.create("", named(number))
    assert healthy[-1] is False
    assert await registry.get("", named(1).name, pixels=True)
    assert healthy[-1] is True
    await registry._run(lambda connection: pages("PRAGMA max_page_count = 1000000"))
    await registry.create("", named(99))
    await registry.close()


async def test_supports_survive_a_restart(tmp_path: Path) -> None:
    for expected in ([], [named(1).name]):
        registry = open_registry(f"sqlite:///{tmp_path}/deep/down/supports.sqlite3")
        assert await names_of(registry) == [expected]
        await registry.create("", named(1))
        await registry.close()


WRITER = """
import asyncio, sys
from itertools import count
from pathlib import Path
from service.supports.sqlite import SqliteRegistry
from tests.service.supports.test_registry import named

async def write():
    registry = SqliteRegistry(Path(sys.argv[1]))
    for number in count():
        await registry.create("", named(number))
        print(named(number).name, flush=True)

asyncio.run(write())
"""


def test_what_was_confirmed_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "supports.sqlite3"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    confirmed = [writer.stdout.readline().strip() for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    confirmed += writer.stdout.read().split()
    writer.wait()

    async def read() -> list[str]:
        registry = SqliteRegistry(path)
        (names,) = await names_of(registry, page_size=1000)
        await registry.close()
        return names

    kept = asyncio.run(read())
    assert len(kept) - len(confirmed) in (0, 1), "at most one was written and not confirmed any more"
    assert kept[: len(confirmed)] == confirmed


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "supports.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(RegistryError, match="version 99"):
        SqliteRegistry(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 99)
    with pytest.raises(RegistryError, match=r"notes\.txt"):
        SqliteRegistry(path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match=r"supports\.sqlite3"):
        SqliteRegistry(tmp_path / "file" / "supports.sqlite3")
