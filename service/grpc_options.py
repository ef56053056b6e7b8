"""gRPC channel arguments of the servers, by the names that gRPC's C core knows.

gRPC ignores names that it does not know, so a test looks each of them up in the library.
"""

from __future__ import annotations

import logging
import resource
from contextlib import suppress
from pathlib import Path

from service.settings import Settings

logger = logging.getLogger(__name__)

Options = tuple[tuple[str, int], ...]

PING_MILLISECONDS = 8_000
"""Shortest interval between keepalive pings of a client. gRPC's default of 5 minutes closes the connections of clients
that ping more often; common client settings are 10 s and more."""

MIN_STREAMS = 100
"""Least number of concurrent calls on one connection, health checks included."""

MAX_METADATA_BYTES = 16 * 1024
"""Metadata of a call; a token and trace headers take under 1 KiB."""

HANDSHAKE_MILLISECONDS = 10_000
"""A connection that has not finished its handshake by then is closed, such as a plain TCP connection."""

IDLE_MILLISECONDS = 10 * 60_000
"""A connection without calls is closed after this time. Clients reconnect by themselves."""

RESERVED_DESCRIPTORS = 64
"""File descriptors kept for everything but client connections: registry, metrics, Triton, files."""

MIN_CONNECTIONS = 8


def server_options(settings: Settings) -> Options:
    """Channel arguments of the API's server."""
    return (
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
        # Unless asked for, two servers must not share a port: the second one fails.
        ("grpc.so_reuseport", int(settings.share_port)),
        # Messages are read before calls are counted. This bounds what one connection may have sent; it is above the
        # limit on calls, so that a full server can still refuse them properly.
        ("grpc.max_concurrent_streams", max(MIN_STREAMS, 2 * settings.max_in_flight)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_MILLISECONDS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
        ("grpc.max_connection_idle_ms", IDLE_MILLISECONDS),
        ("grpc.max_allowed_incoming_connections", connection_limit(settings.max_connections)),
        *_connection_age(settings.max_connection_age_seconds),
    )


def health_options() -> Options:
    """Channel arguments of the server that answers health checks only."""
    return (
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", 4096),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", MIN_STREAMS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_MILLISECONDS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
        ("grpc.max_connection_idle_ms", IDLE_MILLISECONDS),
        ("grpc.max_allowed_incoming_connections", 64),
    )


def connection_limit(wanted: int) -> int:
    """Connections that the process has file descriptors for, at most `wanted`.

    Raises the process's soft limit of descriptors as far as it may. Without a limit on connections, idle clients could
    take every descriptor: Prometheus, the registry and new callers would then be locked out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS + _open_descriptors()
    if soft != resource.RLIM_INFINITY and soft < needed:
        with suppress(ValueError, OSError):
            raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, raised), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    limit = max(MIN_CONNECTIONS, soft - RESERVED_DESCRIPTORS - _open_descriptors())
    logger.warning("at most %d connections, not %d: the process may open %d files (ulimit -n)", limit, wanted, soft)
    return limit


def _open_descriptors() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:  # not Linux
        return 64


def _connection_age(seconds: float) -> Options:
    """Age after which clients are asked to reconnect. A running call keeps its connection until it ends."""
    return (("grpc.max_connection_age_ms", round(seconds * 1000)),) if seconds else ()
