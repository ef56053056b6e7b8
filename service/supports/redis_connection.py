"""Connections to Redis: URLs of single servers and of Sentinels."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from service.supports.registry import RegistryError

SCHEMES = ("redis", "rediss", "unix")
SENTINEL = "redis+sentinel"
SENTINEL_PORT = 26379

TIMEOUT_SECONDS = 2.0
"""Redis counts as unavailable when it does not answer for this long."""


def connect(url: str) -> Any:
    """Prepares a client, a `redis.asyncio.Redis`; connections are made when they are needed.

    Args:
        url: redis://, rediss:// (TLS) or unix://, with user, password and number of the database; or
            redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE, optionally with `?sentinel_password=`.

    Raises:
        RegistryError: not such a URL.
    """
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        # Once more over a new connection: pooled ones break when Redis restarts. Every script can be repeated.
        "retry": Retry(ConstantBackoff(0), 1, supported_errors=(RedisConnectionError,)),
    }
    scheme = url.partition("://")[0]
    try:
        if scheme == SENTINEL:
            return _by_sentinel(url, options)
        if "," in urlsplit(url).netloc:
            raise RegistryError(
                "registry: several Redis hosts; name one server, or Sentinels with redis+sentinel://HOST,HOST/SERVICE"
            )
        return redis.asyncio.Redis.from_url(url, **options)
    except ValueError as error:
        raise RegistryError(f"registry: {error}") from None


def _by_sentinel(url: str, options: dict[str, Any]) -> Any:
    parts = urlsplit(url)
    service, _, database = parts.path.strip("/").partition("/")
    user, _, hosts = parts.netloc.rpartition("@")
    if not service or not hosts:
        raise RegistryError("registry: expected redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE")
    username, _, password = user.partition(":")
    nodes = []
    for host in hosts.split(","):
        name, _, port = host.partition(":")
        nodes.append((name, int(port or SENTINEL_PORT)))
    secret = parse_qs(parts.query).get("sentinel_password", [None])[0]
    timeouts = {name: value for name, value in options.items() if name != "retry"}
    sentinel: Any = Sentinel(
        nodes,  # type: ignore[no-untyped-call]
        sentinel_kwargs={"password": secret, **timeouts},
    )
    credentials = {"username": unquote(username) or None, "password": unquote(password) or None}
    return sentinel.master_for(service, db=int(database or 0), **credentials, **options)
