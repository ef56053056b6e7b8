"""Hearing of supports that another replica has deleted.

Redis publishes each deletion to those who are connected at that moment, and to nobody else. So whenever a connection
has been made anew, every support that is still in memory is looked up: what was deleted meanwhile is forgotten then.
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
"""What all keys begin with; the number changes with the layout."""

CHANNEL = f"{PREFIX}deleted"

PING_SECONDS = 5.0
"""How often a silent connection is tried: one that is broken looks like one on which nothing happens."""

RETRY_SECONDS = 0.5
"""Pause between attempts to connect."""

LOOK_UPS = 500
"""Supports that are looked up at a time."""

logger = logging.getLogger(__name__)


def support_key(owner: str, name: str) -> str:
    """The key of a support's hash."""
    return f"{PREFIX}support:{cache_key(owner, name)}"


class Deletions:
    """Keeps a replica's memory free of supports that are gone."""

    def __init__(
        self,
        client: Any,
        forget: Callable[[str, str], None],
        known: Callable[[], Iterable[OwnedName]],
        report: Callable[[bool], None],
    ) -> None:
        """Takes a `redis.asyncio.Redis`; see `SupportRegistry.open` for the functions."""
        self._redis = client
        self._forget = forget
        self._known = known
        self._report = report

    async def listen(self) -> None:
        """Listens until it is cancelled, over one connection after the other."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                self._report(False)
                logger.debug("no connection to hear of deletions: %s", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        """Listens over one connection, or over those that the library puts in its place, until it breaks."""
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
                    # Also when the library has connected anew by itself.
                    await self._catch_up()
                    self._report(True)
                elif message["type"] == "message":
                    self._forget(*owner_and_name(message["data"].decode()))

    async def _catch_up(self) -> None:
        """Forgets what was deleted while nobody listened."""
        known = list(self._known())
        for start in range(0, len(known), LOOK_UPS):
            part = known[start : start + LOOK_UPS]
            pipeline = self._redis.pipeline(transaction=False)
            for owner, name in part:
                pipeline.exists(support_key(owner, name))
            for (owner, name), there in zip(part, await pipeline.execute(), strict=True):
                if not there:
                    self._forget(owner, name)
