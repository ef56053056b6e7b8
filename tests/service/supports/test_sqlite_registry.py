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
from service.errors import DamagedSupportError, StorageFullError, StorageQuotaError
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


VERSION_2 = """
CREATE TABLE supports (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    outline BLOB NOT NULL,
    support BLOB NOT NULL,
    UNIQUE (owner, name)
);
CREATE INDEX supports_by_age ON supports (owner, number);
PRAGMA user_version = 2;
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


async def test_a_full_disk_refuses_new_supports_but_reads_and_deletes(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "supports.sqlite3")
    health: list[str] = []
    await registry.open(lambda supports: None, lambda: (), health.append)
    await registry.create("", named(1))
    pages = registry._connection.execute  # SQLite itself says "database or disk is full" at this limit
    await registry._run(lambda connection: pages("PRAGMA max_page_count = 1"))
    with pytest.raises(StorageFullError, match="disk is full"):
        for number in range(2, 50):
            await registry.create("", named(number))
    assert health[-1] == "full"
    assert await registry.get("", named(1).name, pixels=True)
    assert health[-1] == "full"
    await registry.delete("", named(1).name)
    await registry._run(lambda connection: pages("PRAGMA max_page_count = 1000000"))
    await registry.create("", named(99))
    assert health[-1] == "ok"
    await registry.close()


async def test_a_damaged_support_is_named_left_out_of_lists_and_replaced_by_creating_it_again(tmp_path: Path) -> None:
    path = tmp_path / "supports.sqlite3"
    registry = SqliteRegistry(path)
    for number in range(3):
        await registry.create("", named(number))
    with sqlite3.connect(path) as connection:
        for column in ("outline", "support"):
            ((content,),) = connection.execute(f"SELECT {column} FROM supports WHERE number = 2")
            changed = content[:-20] + bytes(20)
            connection.execute(f"UPDATE supports SET {column} = ? WHERE number = 2", (changed,))
    connection.close()
    for pixels in (True, False):
        with pytest.raises(DamagedSupportError, match=named(1).name):
            await registry.get("", named(1).name, pixels=pixels)
    assert await names_of(registry) == [[named(0).name, named(2).name]]
    _, existed = await registry.create("", named(1))
    assert not existed
    assert await registry.get("", named(1).name, pixels=True)
    await registry.close()


async def test_new_files_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "new" / "supports.sqlite3")
    await registry.create("", named(1))
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "new").iterdir()}
    assert set(modes.values()) == {"0o600"}, modes
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    await registry.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only files")
def test_a_read_only_file_is_refused_at_start(tmp_path: Path) -> None:
    asyncio.run(SqliteRegistry(tmp_path / "supports.sqlite3").close())
    (tmp_path / "supports.sqlite3").chmod(0o400)
    with pytest.raises(RegistryError, match=r"supports\.sqlite3"):
        SqliteRegistry(tmp_path / "supports.sqlite3")


async def test_a_file_of_version_2_keeps_its_order_owners_and_sizes(tmp_path: Path) -> None:
    path = tmp_path / "supports.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_2)
        for number, owner in ((1, "a"), (2, "b"), (3, "a")):
            content = named(number).SerializeToString()
            row = (owner, named(number).name, content, content)
            connection.execute("INSERT INTO supports (owner, name, outline, support) VALUES (?, ?, ?, ?)", row)
    connection.close()
    registry = SqliteRegistry(path)
    page = await registry.list("a", 9, "", pixels=True, max_bytes=10**9)
    assert page.supports == [named(1), named(3)]
    size = len(named(1).SerializeToString())
    with pytest.raises(StorageQuotaError, match=f"{4 * size:,} bytes are stored"):
        await registry.create("a", named(4), max_bytes=4 * size)
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
