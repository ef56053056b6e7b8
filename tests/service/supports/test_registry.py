"""Every support registry: what it returned as created is there, whatever happens next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import pytest

from cape.v1 import support_pb2
from service.application import open_registry
from service.errors import InvalidFieldError, NotFoundError, StorageQuotaError
from service.supports.registry import OwnedName, RegistryError, SupportRegistry, without_pixels
from tests.service.messages import cat_support
from tests.service.redis_server import RedisServer

LARGE = 10**9

Opened = Callable[[], Awaitable[SupportRegistry]]
"""Opens one more registry of the same supports, as another process would."""


def named(number: int) -> support_pb2.Support:
    support = cat_support()
    support.name = f"supports/{number:032x}"
    return support


def expiring(support: support_pb2.Support, seconds: float) -> support_pb2.Support:
    support.expire_time.FromNanoseconds(time.time_ns() + int(seconds * 1e9))
    return support


@pytest.fixture(params=["sqlite", "redis"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """What is tested with it is tested with every registry."""
    server = RedisServer(tmp_path) if request.param == "redis" else None
    if server is not None:
        server.start()
    url = server.url if server is not None else f"sqlite:///{tmp_path}/supports.sqlite3"
    registries: list[SupportRegistry] = []

    async def open_one() -> SupportRegistry:
        registry = open_registry(url)
        registries.append(registry)
        await registry.open(lambda supports: None, lambda: (), lambda health: None)
        return registry

    yield open_one
    for registry in registries:
        await registry.close()
    if server is not None:
        server.kill()


@pytest.fixture
async def registry(opened: Opened) -> SupportRegistry:
    return await opened()


async def names_of(registry: SupportRegistry, page_size: int = 50, max_bytes: int = LARGE) -> list[list[str]]:
    """Names on every page."""
    pages, token = [], ""
    while True:
        page = await registry.list("", page_size, token, pixels=True, max_bytes=max_bytes)
        pages.append([support.name for support in page.supports])
        token = page.next_page_token
        if not token:
            return pages


async def test_a_support_comes_back_as_it_was(registry: SupportRegistry) -> None:
    created, existed = await registry.create("", named(1))
    assert not existed
    full = await registry.get("", named(1).name, pixels=True)
    assert full.create_time == created.create_time
    assert created == without_pixels(full)
    assert created == await registry.get("", named(1).name, pixels=False)
    full.ClearField("create_time")
    assert full == named(1)


async def test_without_pixels_everything_else_is_there() -> None:
    outline = without_pixels(named(1))
    assert not outline.examples[0].HasField("image")
    outline.examples[0].image.CopyFrom(named(1).examples[0].image)
    assert outline == named(1)


async def test_creating_twice_returns_the_first(registry: SupportRegistry) -> None:
    first, _ = await registry.create("", named(1))
    again, existed = await registry.create("", named(1))
    assert existed
    assert again == first


async def test_many_who_create_the_same_at_once_create_it_once(opened: Opened) -> None:
    registries = [await opened() for _ in range(3)]
    results = await asyncio.gather(*(registry.create("", named(1)) for registry in registries * 4))
    assert sum(not existed for _, existed in results) == 1
    assert len({support.create_time.ToNanoseconds() for support, _ in results}) == 1


async def test_a_list_is_paged_oldest_first(registry: SupportRegistry) -> None:
    for number in (5, 3, 4, 1, 2):
        await registry.create("", named(number))
    pages = await names_of(registry, page_size=2)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == [named(number).name for number in (5, 3, 4, 1, 2)]


async def test_paging_neither_skips_nor_repeats_when_the_list_changes(registry: SupportRegistry) -> None:
    for number in range(4):
        await registry.create("", named(number))
    first = await registry.list("", 2, "", pixels=False, max_bytes=LARGE)
    await registry.delete("", first.supports[1].name)
    await registry.create("", named(9))
    second = await registry.list("", 9, first.next_page_token, pixels=False, max_bytes=LARGE)
    assert [support.name for support in second.supports] == [named(number).name for number in (2, 3, 9)]


async def test_a_page_ends_before_it_grows_too_large(registry: SupportRegistry) -> None:
    for number in range(3):
        await registry.create("", named(number))
    assert [len(page) for page in await names_of(registry, max_bytes=1)] == [1, 1, 1]


async def test_a_made_up_page_token_is_refused(registry: SupportRegistry) -> None:
    for token in ("x", "AAAA", "🐈", "////"):
        with pytest.raises(InvalidFieldError, match="page_token"):
            await registry.list("", 5, token, pixels=False, max_bytes=LARGE)


async def test_a_list_goes_on_after_a_support_that_vanishes_while_it_is_read(registry: SupportRegistry) -> None:
    """All of the supports of a page may be gone, too."""
    for number in range(8):
        await registry.create("", named(number))
    token = (await registry.list("", 1, "", pixels=False, max_bytes=LARGE)).next_page_token
    for number in (1, 2, 3, 5):
        await registry.delete("", named(number).name)
    seen = []
    while token:
        page = await registry.list("", 2, token, pixels=False, max_bytes=LARGE)
        seen += [support.name for support in page.supports]
        token = page.next_page_token
    assert seen == [named(number).name for number in (4, 6, 7)]


async def test_an_expired_support_is_not_found_and_then_deleted(opened: Opened) -> None:
    registry, forgotten, swept = await opened(), [], asyncio.Event()

    def forget(supports: Iterable[OwnedName]) -> None:
        forgotten.extend(supports)
        if forgotten:
            swept.set()

    await registry.open(forget, lambda: (), lambda health: None)
    await registry.create("ours", expiring(named(1), 0.2))
    await registry.create("ours", named(2))
    await asyncio.sleep(0.25)
    with pytest.raises(NotFoundError):
        await registry.get("ours", named(1).name, pixels=True)
    page = await registry.list("ours", 9, "", pixels=False, max_bytes=LARGE)
    assert [support.name for support in page.supports] == [named(2).name]
    maintenance = asyncio.create_task(registry.maintain())
    await asyncio.wait_for(swept.wait(), 20)
    maintenance.cancel()
    assert set(forgotten) == {("ours", named(1).name)}
    _, existed = await registry.create("ours", named(1))
    assert not existed


async def test_creating_again_moves_the_expiry_to_the_later_of_both(registry: SupportRegistry) -> None:
    first, _ = await registry.create("", expiring(named(1), 100))
    longer, _ = await registry.create("", expiring(named(1), 200))
    shorter, _ = await registry.create("", expiring(named(1), 50))
    assert first.expire_time.ToNanoseconds() < longer.expire_time.ToNanoseconds()
    assert shorter.expire_time == longer.expire_time
    forever, existed = await registry.create("", named(1))
    assert existed
    assert not forever.HasField("expire_time")
    assert not (await registry.create("", expiring(named(1), 50)))[0].HasField("expire_time")


async def test_an_owner_stores_no_more_than_its_quota_and_deleting_makes_room(registry: SupportRegistry) -> None:
    size = 2 * len(named(1).SerializeToString())
    await registry.create("ours", named(1), max_bytes=size)
    with pytest.raises(StorageQuotaError, match="quota"):
        for number in range(2, 5):
            await registry.create("ours", named(number), max_bytes=size)
    await registry.create("theirs", named(1), max_bytes=size)
    _, existed = await registry.create("ours", named(1), max_bytes=size)
    assert existed
    await registry.delete("ours", named(1).name)
    await registry.create("ours", named(9), max_bytes=size)


async def test_page_tokens_do_not_depend_on_what_other_owners_create(registry: SupportRegistry) -> None:
    tokens = []
    for owner, others in (("first", 0), ("second", 5)):
        for number in range(others):
            await registry.create("busy", named(number))
        for number in range(2):
            await registry.create(owner, named(number))
        tokens.append((await registry.list(owner, 1, "", pixels=False, max_bytes=LARGE)).next_page_token)
    assert tokens[0] == tokens[1]


async def test_a_backup_restores_owners_order_times_and_expiry_in_either_kind_of_registry(
    registry: SupportRegistry, tmp_path: Path
) -> None:
    for owner, number in (("b", 2), ("a", 1), ("b", 1), ("a", 3)):
        await registry.create(owner, expiring(named(number), 100) if number == 3 else named(number))
    backup = open_registry(f"sqlite:///{tmp_path}/backup.sqlite3")
    copied = [await backup.restore(owner, support) async for owner, support in registry.everything()]
    assert copied == [True] * 4
    for owner in ("a", "b"):
        original, copy = [await kept.list(owner, 9, "", pixels=True, max_bytes=LARGE) for kept in (registry, backup)]
        assert original.supports == copy.supports
    await registry.delete("a", named(1).name)
    restored = [await registry.restore(owner, support) async for owner, support in backup.everything()]
    assert sum(restored) == 1
    await backup.close()


async def test_what_was_deleted_is_gone(registry: SupportRegistry) -> None:
    await registry.create("", named(1))
    await registry.delete("", named(1).name)
    for call in (registry.get("", named(1).name, pixels=False), registry.delete("", named(1).name)):
        with pytest.raises(NotFoundError):
            await call


async def test_owners_see_their_own_supports_and_no_others(registry: SupportRegistry) -> None:
    await registry.create("ours", named(1))
    _, existed = await registry.create("theirs", named(1))
    assert not existed, "that somebody else has the same is a secret"
    await registry.create("theirs", named(2))
    with pytest.raises(NotFoundError):
        await registry.get("ours", named(2).name, pixels=True)
    with pytest.raises(NotFoundError):
        await registry.delete("ours", named(2).name)
    await registry.delete("ours", named(1).name)
    page = await registry.list("theirs", 10, "", pixels=False, max_bytes=LARGE)
    assert [support.name for support in page.supports] == [named(1).name, named(2).name]
    assert not (await registry.list("ours", 10, "", pixels=False, max_bytes=LARGE)).supports


async def test_an_owners_page_token_is_of_no_use_for_what_others_own(registry: SupportRegistry) -> None:
    for number in range(3):
        await registry.create("theirs", named(number))
    token = (await registry.list("theirs", 1, "", pixels=False, max_bytes=LARGE)).next_page_token
    assert not (await registry.list("ours", 9, token, pixels=False, max_bytes=LARGE)).supports


@pytest.mark.parametrize(
    "url", ["", "postgres://host/db", "supports.sqlite3", "sqlite://file", "sqlite:///", "redis://host:port", "redis:/"]
)
def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(RegistryError, match="registry"):
        open_registry(url)
