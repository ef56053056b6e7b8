"""The support registry: what it returned as created is there, whatever happens next."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cape.v1 import support_pb2
from service.application import open_registry
from service.errors import InvalidFieldError, NotFoundError
from service.registry import RegistryError, without_pixels
from service.sqlite_registry import SqliteRegistry
from tests.service.messages import cat_support

LARGE = 10**9


def named(number: int) -> support_pb2.Support:
    support = cat_support()
    support.name = f"supports/{number:032x}"
    return support


async def names_of(registry: SqliteRegistry, page_size: int = 50, max_bytes: int = LARGE) -> list[list[str]]:
    """Names on every page."""
    pages, token = [], ""
    while True:
        page = await registry.list(page_size, token, pixels=True, max_bytes=max_bytes)
        pages.append([support.name for support in page.supports])
        token = page.next_page_token
        if not token:
            return pages


async def test_a_support_comes_back_as_it_was(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "supports.sqlite3")
    created, existed = await registry.create(named(1))
    assert not existed
    full = await registry.get(named(1).name, pixels=True)
    assert full.create_time == created.create_time
    assert created == without_pixels(full)
    assert created == await registry.get(named(1).name, pixels=False)
    full.ClearField("create_time")
    assert full == named(1)
    await registry.close()


async def test_without_pixels_everything_else_is_there() -> None:
    outline = without_pixels(named(1))
    assert not outline.examples[0].HasField("image")
    outline.examples[0].image.CopyFrom(named(1).examples[0].image)
    assert outline == named(1)


async def test_creating_twice_returns_the_first(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "supports.sqlite3")
    first, _ = await registry.create(named(1))
    again, existed = await registry.create(named(1))
    assert existed
    assert again == first
    await registry.close()


async def test_many_who_create_the_same_at_once_create_it_once(tmp_path: Path) -> None:
    registries = [SqliteRegistry(tmp_path / "supports.sqlite3") for _ in range(3)]
    results = await asyncio.gather(*(registry.create(named(1)) for registry in registries * 4))
    assert sum(not existed for _, existed in results) == 1
    assert len({support.create_time.ToNanoseconds() for support, _ in results}) == 1
    for registry in registries:
        await registry.close()


async def test_a_list_is_paged_oldest_first(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "supports.sqlite3")
    for number in (5, 3, 4, 1, 2):
        await registry.create(named(number))
    pages = await names_of(registry, page_size=2)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == [named(number).name for number in (5, 3, 4, 1, 2)]
    await registry.close()


async def test_paging_neither_skips_nor_repeats_when_the_list_changes(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "supports.sqlite3")
    for number in range(4):
        await registry.create(named(number))
    first = await registry.list(2, "", pixels=False, max_bytes=LARGE)
    await registry.delete(first.supports[1].name)
    await registry.create(named(9))
    second = await registry.list(9, first.next_page_token, pixels=False, max_bytes=LARGE)
    assert [support.name for support in second.supports] == [named(number).name for number in (2, 3, 9)]
    await registry.close()


async def test_a_page_ends_before_it_grows_too_large(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "supports.sqlite3")
    for number in range(3):
        await registry.create(named(number))
    assert [len(page) for page in await names_of(registry, max_bytes=1)] == [1, 1, 1]
    await registry.close()


async def test_a_made_up_page_token_is_refused(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "supports.sqlite3")
    for token in ("x", "AAAA", "🐈", "////"):
        with pytest.raises(InvalidFieldError, match="page_token"):
            await registry.list(5, token, pixels=False, max_bytes=LARGE)
    await registry.close()


async def test_what_was_deleted_is_gone(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "supports.sqlite3")
    await registry.create(named(1))
    await registry.delete(named(1).name)
    for call in (registry.get(named(1).name, pixels=False), registry.delete(named(1).name)):
        with pytest.raises(NotFoundError):
            await call
    await registry.close()


async def test_supports_survive_a_restart(tmp_path: Path) -> None:
    for expected in ([], [named(1).name]):
        registry = open_registry(f"sqlite:///{tmp_path}/deep/down/supports.sqlite3")
        assert await names_of(registry) == [expected]
        await registry.create(named(1))
        await registry.close()


WRITER = """
import asyncio, sys
from itertools import count
from pathlib import Path
from service.sqlite_registry import SqliteRegistry
from tests.service.test_registry import named

async def write():
    registry = SqliteRegistry(Path(sys.argv[1]))
    for number in count():
        await registry.create(named(number))
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


@pytest.mark.parametrize("url", ["", "postgres://host/db", "supports.sqlite3", "sqlite://file", "sqlite:///"])
def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(RegistryError, match="registry"):
        open_registry(url)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 99)
    with pytest.raises(RegistryError, match=r"notes\.txt"):
        SqliteRegistry(path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match=r"supports\.sqlite3"):
        SqliteRegistry(tmp_path / "file" / "supports.sqlite3")
