"""Deletions by other replicas, received through Redis.

Redis publishes a deletion only to the clients that are connected at that moment. After every new connection, each
support in memory is therefore looked up, and those that no longer exist are forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import RedisError

from service.supports.names import cache_key, owner_and_name
from service.supports.registry import OwnedName

PREFIX = "capeserve:1:"
"""Prefix of all keys; the number changes with their layout."""

CHANNEL = f"{PREFIX}deleted"

PING_SECONDS = 5.0
"""How often a silent connection is tested: a broken one looks like one without messages."""

RETRY_SECONDS = 0.5
"""Pause between attempts to connect."""

LOOK_UPS = 500
"""Supports looked up in one round trip."""

logger = logging.getLogger(__name__)


def support_key(owner: str, name: str) -> str:
    """Key of a support's hash."""
    return f"{PREFIX}support:{cache_key(owner, name)}"


class Deletions:
    """Removes supports from memory that other replicas have deleted."""

    def __init__(
        self,
        client: Any,
        forget: Callable[[Iterable[OwnedName]], None],
        known: Callable[[], Iterable[OwnedName]],
        report: Callable[[bool], None],
    ) -> None:
        """Takes a client and the functions of `SupportRegistry.open`.

        Args:
            client: a `redis.asyncio.Redis`.
            forget, known: see `SupportRegistry.open`.
            report: called with whether Redis answers.
        """
        self._redis = client
        self._forget = forget
        self._known = known
        self._report = report

    async def listen(self) -> None:
        """Receives deletions until cancelled, and reconnects whenever the connection breaks."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                self._report(False)
                logger.debug("no connection for deletions: %s", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        """Receives deletions until the connection breaks; the library may replace it by itself."""
        async with self._redis.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            silent = False
            while True:
                message = await channel.get_message(timeout=PING_SECONDS)
                if message is None:
                    if silent:
                        raise RedisError("no answer to a ping")
                    await channel.ping()
                    silent = True
                    continue
                silent = False
                if message["type"] == "subscribe":
                    # Also after the library has reconnected by itself.
                    await self._catch_up()
                    self._report(True)
                elif message["type"] == "message":
                    self._forget([owner_and_name(message["data"].decode())])

    async def _catch_up(self) -> None:
        """Forgets supports that were deleted while there was no connection."""
        known = list(self._known())
        for start in range(0, len(known), LOOK_UPS):
            part = known[start : start + LOOK_UPS]
            pipeline = self._redis.pipeline(transaction=False)
            for owner, name in part:
                pipeline.exists(support_key(owner, name))
            exists = await pipeline.execute()
            self._forget([support for support, there in zip(part, exists, strict=True) if not there])
