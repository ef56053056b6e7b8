"""The support registry in Redis, shared by replicas.

`service.supports.redis_scripts` describes the keys. Every write is one script. Deletions are published, and
`service.supports.redis_deletions` receives them.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError
from redis.exceptions import AuthenticationError, OutOfMemoryError, ReadOnlyError, RedisError

from cape.v1 import support_pb2
from service.errors import DamagedSupportError, StorageFullError, StorageQuotaError, UnavailableError
from service.supports.names import cache_key, owner_and_name
from service.supports.redis_connection import connect
from service.supports.redis_deletions import CHANNEL, PREFIX, Deletions, support_key
from service.supports.redis_scripts import CREATE, DELETE, SWEEP
from service.supports.registry import (
    SWEEP_SECONDS,
    Health,
    OwnedName,
    Page,
    RegistryError,
    decode_page_token,
    encode_page_token,
    not_found,
    now_nanoseconds,
    without_pixels,
)

OVER_QUOTA = 2
"""Answer of `CREATE`."""

EXPIRY = f"{PREFIX}expiry"

OUTLINES_AT_A_TIME = 100
"""Supports without pixels that are read in one round trip. Those with pixels are read one by one: each may have many
megabytes, and the page may end after the first."""

PIXEL_READS = 4
"""Supports with pixels that a replica reads at a time: Redis keeps every answer that is not read yet in its memory."""

Names: TypeAlias = Sequence[tuple[bytes, float]]

logger = logging.getLogger(__name__)


class RedisRegistry:
    """Keeps supports in Redis. Implements `service.supports.registry.SupportRegistry`; for use in one event loop."""

    def __init__(self, url: str) -> None:
        """Prepares connections; `open` makes the first one.

        Args:
            url: see `service.supports.redis_connection.connect`.

        Raises:
            RegistryError: not such a URL.
        """
        self._redis = connect(url)
        self._create = self._redis.register_script(CREATE)
        self._delete = self._redis.register_script(DELETE)
        self._sweep = self._redis.register_script(SWEEP)
        self._pixel_reads = asyncio.Semaphore(PIXEL_READS)
        self._report: Callable[[Health], None] = lambda _: None
        self._forget: Callable[[Iterable[OwnedName]], None] = lambda _: None
        self._known: Callable[[], Iterable[OwnedName]] = lambda: ()
        self._health: Health | None = None
        self._checked = False

    async def open(
        self,
        forget: Callable[[Iterable[OwnedName]], None],
        known: Callable[[], Iterable[OwnedName]],
        report: Callable[[Health], None],
    ) -> None:
        """See `SupportRegistry.open`. A Redis that is unavailable may come back: that is no error."""
        self._report, self._forget, self._known = report, forget, known
        try:
            await self._check()
            self._set_health("ok")
        except AuthenticationError as error:
            raise RegistryError(f"registry: Redis refuses the credentials: {error}") from None
        except (RedisError, OSError) as error:
            self._set_health("unavailable", error)

    async def maintain(self) -> None:
        """See `SupportRegistry.maintain`."""
        deletions = Deletions(self._redis, self._forget, self._known, self._connection_is)
        async with asyncio.TaskGroup() as group:
            group.create_task(deletions.listen())
            group.create_task(self._delete_expired())

    async def create(
        self, owner: str, support: support_pb2.Support, *, max_bytes: int = 0
    ) -> tuple[support_pb2.Support, bool]:
        """See `SupportRegistry.create`."""
        return await self._store(owner, support, max_bytes, "")

    async def restore(self, owner: str, support: support_pb2.Support) -> bool:
        """See `SupportRegistry.restore`."""
        _, existed = await self._store(owner, support, 0, str(support.create_time.ToNanoseconds()))
        return not existed

    async def get(self, owner: str, name: str, *, pixels: bool) -> support_pb2.Support:
        """See `SupportRegistry.get`."""

        async def read() -> Any:
            if not pixels:
                return await self._redis.hmget(support_key(owner, name), _fields(pixels))
            async with self._pixel_reads:
                return await self._redis.hmget(support_key(owner, name), _fields(pixels))

        fields = await self._using(read)
        if fields[0] is None or _expired(fields[2]):
            raise not_found(name)
        return _support(name, *fields)

    async def list(self, owner: str, page_size: int, page_token: str, *, pixels: bool, max_bytes: int) -> Page:
        """See `SupportRegistry.list`. Damaged supports are left out, and logged."""
        after, order = decode_page_token(page_token), _owned("order", owner)
        supports: list[support_pb2.Support] = []
        size, token = 0, ""
        step = 1 if pixels else min(page_size + 1, OUTLINES_AT_A_TIME)
        # A page of names may hold supports that no longer exist: the list goes on until there are no names left.
        while names := await self._names(order, after, step):
            for number, name, fields in await self._read(owner, names, pixels):
                after = number
                if fields[0] is None or _expired(fields[2]):
                    continue
                size += len(fields[0])
                if supports and (len(supports) == page_size or size > max_bytes):
                    return Page(supports, token)
                try:
                    supports.append(_support(name, *fields))
                except DamagedSupportError as error:
                    logger.error("%s", error)
                    continue
                token = encode_page_token(number)
        return Page(supports, "")

    async def delete(self, owner: str, name: str) -> None:
        """See `SupportRegistry.delete`."""
        key = cache_key(owner, name)
        keys = (
            support_key(owner, name),
            _owned("order", owner),
            _owned("bytes", owner),
            EXPIRY,
            f"{PREFIX}deleted:{key}",
        )
        arguments = (name, key, CHANNEL, uuid.uuid4().hex)
        if not await self._using(lambda: self._delete(keys, arguments)):
            raise not_found(name)

    async def everything(self) -> AsyncIterator[tuple[str, support_pb2.Support]]:
        """See `SupportRegistry.everything`."""
        prefix = _owned("order", "")
        owners = [key.decode().removeprefix(prefix) async for key in self._redis.scan_iter(f"{prefix}*")]
        for owner in sorted(owners):
            token = ""
            while True:
                page = await self.list(owner, 16, token, pixels=True, max_bytes=64 * 2**20)
                for support in page.supports:
                    yield owner, support
                token = page.next_page_token
                if not token:
                    break

    async def close(self) -> None:
        """See `SupportRegistry.close`."""
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    async def _store(
        self, owner: str, support: support_pb2.Support, max_bytes: int, create_time: str
    ) -> tuple[support_pb2.Support, bool]:
        expire_time = support.expire_time.ToNanoseconds() if support.HasField("expire_time") else 0
        stored = support_pb2.Support()
        stored.CopyFrom(support)
        for field in ("create_time", "expire_time"):
            stored.ClearField(field)
        outline, content = without_pixels(stored).SerializeToString(), stored.SerializeToString()
        key = cache_key(owner, support.name)
        counters = (_owned("order", owner), _owned("number", owner), _owned("bytes", owner))
        keys = (support_key(owner, support.name), *counters, EXPIRY)
        limits = (str(expire_time), max_bytes, key, support_key(owner, ""), create_time)
        arguments = (outline, content, support.name, *limits)
        answer = await self._using(lambda: self._create(keys, arguments), writes=True)
        if answer[3] == OVER_QUOTA:
            raise StorageQuotaError(owner, answer[4], len(outline) + len(content), max_bytes)
        return _support(support.name, *answer[:3]), bool(answer[3])

    async def _names(self, order: str, after: int, count: int) -> Names:
        """The names after a number, with their numbers."""
        names: Names = await self._using(
            lambda: self._redis.zrangebyscore(order, f"({after}", "+inf", 0, count, withscores=True)
        )
        return names

    async def _read(self, owner: str, names: Names, pixels: bool) -> Sequence[tuple[int, str, Any]]:
        """Number, name and fields of some supports."""

        async def read() -> Any:
            pipeline = self._redis.pipeline(transaction=False)
            for name, _ in names:
                pipeline.hmget(support_key(owner, name.decode()), _fields(pixels))
            return await pipeline.execute()

        if pixels:
            async with self._pixel_reads:
                answers = await self._using(read)
        else:
            answers = await self._using(read)
        return [(int(number), name.decode(), fields) for (name, number), fields in zip(names, answers, strict=True)]

    async def _delete_expired(self) -> None:
        while True:
            with suppress(UnavailableError, StorageFullError):  # already reported
                while expired := await self._using(lambda: self._sweep((EXPIRY,), (PREFIX, CHANNEL))):
                    self._forget([owner_and_name(member.decode()) for member in expired])
                    logger.info("%d expired supports deleted", len(expired))
            await asyncio.sleep(SWEEP_SECONDS)

    async def _using(self, command: Callable[[], Awaitable[Any]], *, writes: bool = False) -> Any:
        """Runs a command.

        Raises:
            StorageFullError: Redis is full.
            UnavailableError: Redis does not answer, or cannot do it: read-only, still loading.
        """
        try:
            if not self._checked:
                await self._check()
            try:
                answer = await command()
            except ReadOnlyError:
                # After a failover the name of the primary points elsewhere; new connections resolve it again.
                await self._redis.connection_pool.disconnect()
                answer = await command()
        except OutOfMemoryError as error:
            self._set_health("full", error)
            raise StorageFullError("the support registry is full") from None
        except ReadOnlyError as error:
            self._set_health("unavailable", error)
            raise UnavailableError("the support registry is a read-only replica") from None
        except (RedisError, OSError, RegistryError) as error:
            self._set_health("unavailable", error)
            raise UnavailableError("the support registry cannot be read or written") from None
        if writes or self._health != "full":
            self._set_health("ok")
        return answer

    def _connection_is(self, working: bool) -> None:
        """Takes the state of the connection for deletions."""
        if not working:
            self._set_health("unavailable")
        elif self._health != "full" and self._checked:
            self._set_health("ok")

    def _set_health(self, health: Health, error: Exception | None = None) -> None:
        if health == self._health:
            return
        if health == "ok":
            logger.info("the support registry answers")
        elif health == "full":
            logger.error("the support registry is full: %s", error)
        else:
            logger.error("the support registry cannot be used: %s", error or "no connection")
        self._health = health
        self._report(health)

    async def _check(self) -> None:
        """Checks once that Redis can be used, and warns of a configuration that may lose supports.

        Raises:
            RegistryError: Redis Cluster.
        """
        if (await self._redis.info("cluster")).get("cluster_enabled"):
            raise RegistryError(
                "registry: Redis Cluster is not supported; use one primary with replicas, or redis+sentinel://"
            )
        self._checked = True
        try:
            configuration = await self._redis.config_get("appendonly", "maxmemory-policy")
        except RedisError:
            return  # managed services may not answer this
        if configuration.get("appendonly") == "no":
            logger.warning("Redis has appendonly off: it loses the newest supports when it crashes")
        if configuration.get("maxmemory-policy", "noeviction") != "noeviction":
            logger.warning("Redis may evict supports: set maxmemory-policy to noeviction")


def _owned(kind: str, owner: str) -> str:
    """Key of something that an owner has once."""
    return f"{PREFIX}{kind}:{owner}"


def _fields(pixels: bool) -> list[str]:
    return ["support" if pixels else "outline", "create_time", "expire_time"]


def _expired(expire_time: bytes | None) -> bool:
    return 0 < int(expire_time or 0) <= now_nanoseconds()


def _support(name: str, content: bytes, create_time: bytes, expire_time: bytes | None) -> support_pb2.Support:
    """Parses a support; raises DamagedSupportError where that fails."""
    try:
        support = support_pb2.Support.FromString(content)
        support.create_time.FromNanoseconds(int(create_time))
        if int(expire_time or 0):
            support.expire_time.FromNanoseconds(int(expire_time or 0))
    except (DecodeError, ValueError):
        raise DamagedSupportError(name) from None
    return support
