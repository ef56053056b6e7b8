"""The support registry in Redis, shared by replicas.

A support is a hash `capeserve:1:support:{owner}/{name}` with the fields `outline`, `support` and `create_time`
(nanoseconds since 1970, by Redis' clock: one for all replicas). The sorted set `capeserve:1:order:{owner}` lists an
owner's names in the order of their creation. Every write is one script, so it happens wholly or not at all.
Deletions are published; `service.supports.redis_deletions` sees to it that every replica learns of each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from cape.v1 import support_pb2
from service.errors import UnavailableError
from service.supports.names import cache_key
from service.supports.redis_deletions import CHANNEL, PREFIX, Deletions, support_key
from service.supports.registry import (
    OwnedName,
    Page,
    RegistryError,
    decode_page_token,
    encode_page_token,
    not_found,
    without_pixels,
)

TIMEOUT_SECONDS = 2.0
"""After so long without an answer Redis counts as away."""

CREATE = """
local known = redis.call('HMGET', KEYS[1], 'outline', 'create_time')
if known[1] then return {known[1], known[2], 1} end
local time = redis.call('TIME')
local create_time = time[1] .. string.format('%06d', time[2]) .. '000'
redis.call('HSET', KEYS[1], 'outline', ARGV[1], 'support', ARGV[2], 'create_time', create_time)
redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[3])
return {ARGV[1], create_time, 0}
"""

DELETE = """
if redis.call('DEL', KEYS[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
"""

COUNTER = f"{PREFIX}number"
"""Key of how many supports were ever created: the scores in the sorted sets, exact up to 2^53."""

OUTLINES_AT_A_TIME = 100
"""Supports without pixels that are read at a time. Those with pixels are read one by one: each may be many
megabytes, and the page may end after the first."""

logger = logging.getLogger(__name__)


class RedisRegistry:
    """Keeps supports in Redis. Satisfies `service.supports.registry.SupportRegistry`; for use within one event loop."""

    def __init__(self, url: str) -> None:
        """Prepares connections; `open` makes the first one.

        Args:
            url: redis://, rediss:// (TLS) or unix://, with user, password and number of the database.

        Raises:
            RegistryError: not such a URL.
        """
        try:
            self._redis: Any = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                # Once more over a new connection: those at hand break when Redis restarts. Not after a timeout: what
                # hangs may be done yet, and a deletion that is done twice would be told as NOT_FOUND.
                retry=Retry(ConstantBackoff(0), 1, supported_errors=(RedisConnectionError,)),
            )
        except ValueError as error:
            raise RegistryError(f"registry: {error}") from None
        self._create = self._redis.register_script(CREATE)
        self._delete = self._redis.register_script(DELETE)
        self._report: Callable[[bool], None] = lambda _: None
        self._healthy: bool | None = None
        self._listening: asyncio.Task[None] | None = None

    async def open(
        self,
        forget: Callable[[str, str], None],
        known: Callable[[], Iterable[OwnedName]],
        report: Callable[[bool], None],
    ) -> None:
        """See `SupportRegistry.open`. A Redis that is away may come back: only its refusal is an error."""
        self._report = report
        try:
            await self._redis.ping()
            self._set_healthy(True)
            await self._warn_of_loss()
        except AuthenticationError as error:
            raise RegistryError(f"registry: Redis does not let us in: {error}") from None
        except (RedisError, OSError) as error:
            self._set_healthy(False, error)
        deletions = Deletions(self._redis, forget, known, self._set_healthy)
        self._listening = asyncio.create_task(deletions.listen())

    async def create(self, owner: str, support: support_pb2.Support) -> tuple[support_pb2.Support, bool]:
        """See `SupportRegistry.create`."""
        outline = without_pixels(support).SerializeToString()
        keys = (support_key(owner, support.name), _order(owner), COUNTER)
        arguments = (outline, support.SerializeToString(), support.name)
        content, create_time, existed = await self._using(self._create(keys, arguments))
        return _support(content, create_time), bool(existed)

    async def get(self, owner: str, name: str, *, pixels: bool) -> support_pb2.Support:
        """See `SupportRegistry.get`."""
        fields = await self._using(self._redis.hmget(support_key(owner, name), _fields(pixels)))
        if fields[0] is None:
            raise not_found(name)
        return _support(*fields)

    async def list(self, owner: str, page_size: int, page_token: str, *, pixels: bool, max_bytes: int) -> Page:
        """See `SupportRegistry.list`."""
        after, order = decode_page_token(page_token), _order(owner)
        rows = await self._using(
            self._redis.zrangebyscore(order, f"({after}", "+inf", 0, page_size + 1, withscores=True)
        )
        supports: list[support_pb2.Support] = []
        size, token = 0, ""
        step = 1 if pixels else OUTLINES_AT_A_TIME
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            pipeline = self._redis.pipeline(transaction=False)
            for name, _ in part:
                pipeline.hmget(support_key(owner, name.decode()), _fields(pixels))
            for (_, number), fields in zip(part, await self._using(pipeline.execute()), strict=True):
                if fields[0] is None:
                    continue  # deleted a moment ago
                size += len(fields[0])
                if supports and (len(supports) == page_size or size > max_bytes):
                    return Page(supports, token)
                supports.append(_support(*fields))
                token = encode_page_token(int(number))
        return Page(supports, "")

    async def delete(self, owner: str, name: str) -> None:
        """See `SupportRegistry.delete`."""
        keys = (support_key(owner, name), _order(owner))
        if not await self._using(self._delete(keys, (name, CHANNEL, cache_key(owner, name)))):
            raise not_found(name)

    async def close(self) -> None:
        """See `SupportRegistry.close`."""
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
        await self._redis.aclose()

    async def _using(self, command: Awaitable[Any]) -> Any:
        """Awaits what Redis answers.

        Raises:
            UnavailableError: it is away, or cannot do it: full, read-only, still loading.
        """
        try:
            answer = await command
        except (RedisError, OSError) as error:
            self._set_healthy(False, error)
            raise UnavailableError("the support registry cannot be read or written") from None
        self._set_healthy(True)
        return answer

    def _set_healthy(self, healthy: bool, error: Exception | None = None) -> None:
        if healthy == self._healthy:
            return
        if healthy:
            logger.info("the support registry answers")
        else:
            logger.error("the support registry cannot be used: %s", error or "no connection")
        self._healthy = healthy
        self._report(healthy)

    async def _warn_of_loss(self) -> None:
        """Says in the log what of Redis' configuration may cost supports; managed ones may not tell."""
        try:
            configuration = await self._redis.config_get("appendonly", "maxmemory-policy")
        except RedisError:
            return
        if configuration.get("appendonly") == "no":
            logger.warning("Redis has appendonly off: it loses the newest supports when it crashes")
        if configuration.get("maxmemory-policy", "noeviction") != "noeviction":
            logger.warning("Redis may evict supports: set maxmemory-policy to noeviction")


def _order(owner: str) -> str:
    """The key of the sorted set of an owner's names."""
    return f"{PREFIX}order:{owner}"


def _fields(pixels: bool) -> list[str]:
    return ["support" if pixels else "outline", "create_time"]


def _support(content: bytes, create_time: bytes) -> support_pb2.Support:
    support = support_pb2.Support.FromString(content)
    support.create_time.FromNanoseconds(int(create_time))
    return support
