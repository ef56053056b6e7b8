"""How a client connects to a server: TLS, token, timeouts, message sizes and retries."""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import grpc

from cape.client.errors import CancelledError, CapeError, DeadlineExceededError, OverloadedError, UnavailableError

READY_POLL = 0.1
"""Seconds between health checks while waiting for a server."""

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 2.0
"""Seconds before the first retry when a server is unavailable; doubled with each attempt."""


class CallOptions(TypedDict, total=False):
    """Options that a single call may override. Absent ones keep the client's value.

    Attributes:
        timeout: deadline of the call in seconds, retries included; None for no limit.
        token: API token; None for none.
        attempts: maximum number of attempts, 1 to 5. Streams keep the client's.
    """

    timeout: float | None
    token: str | None
    attempts: int


class ClientOptions(CallOptions, total=False):
    """Fields of `ConnectionOptions` as keyword arguments of a client."""

    tls: bool
    root_certificates: str | os.PathLike[str] | None
    client_certificate: str | os.PathLike[str] | None
    client_key: str | os.PathLike[str] | None
    max_message_bytes: int
    keepalive: float


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Options of a connection.

    Attributes:
        timeout: deadline of a call in seconds, retries included; None for no limit. A stream has no limit unless its
            call sets one.
        tls: encrypt, trusting the system's root certificates; implied by the three files below.
        root_certificates: PEM file of the certificates to trust instead.
        client_certificate: PEM file of this client's certificate, for mutual TLS.
        client_key: PEM file of its private key.
        token: API token, sent as a bearer token. Without TLS it is sent in plain text.
        attempts: maximum number of attempts, 1 to 5, while the server is unavailable or full. Retrying is safe: all
            methods are idempotent.
        max_message_bytes: largest message sent or received.
        keepalive: seconds between keepalive pings during calls, which detect dead connections. A capeserve server
            accepts one every 8 s.
    """

    timeout: float | None = 30.0
    tls: bool = False
    root_certificates: str | os.PathLike[str] | None = None
    client_certificate: str | os.PathLike[str] | None = None
    client_key: str | os.PathLike[str] | None = None
    token: str | None = field(default=None, repr=False)
    attempts: int = 4
    max_message_bytes: int = 64 * 2**20
    keepalive: float = 60.0

    def __post_init__(self) -> None:
        """Raises ValueError for options that gRPC would reject or misinterpret."""
        if not 1 <= self.attempts <= 5:
            raise ValueError(f"attempts: 1 to 5, not {self.attempts}")
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("client_certificate and client_key: each needs the other")
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"timeout: more than 0 seconds, not {self.timeout}")

    def for_call(self, call: CallOptions) -> ConnectionOptions:
        """Returns these options with the overrides of a call.

        Raises:
            TypeError: the option is unknown, or cannot be overridden per call.
            ValueError: as the constructor.
        """
        if unknown := call.keys() - CallOptions.__annotations__.keys():
            names = ", ".join(CallOptions.__annotations__)
            raise TypeError(f"a call takes {names}, not {', '.join(sorted(unknown))}")
        return replace(self, **call) if call else self

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata sent with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS credentials; None for a connection without TLS.

        Raises:
            OSError: a certificate or key cannot be read.
        """
        files = (self.root_certificates, self.client_key, self.client_certificate)
        if not self.tls and all(file is None for file in files):
            return None
        root, key, certificate = (None if file is None else Path(file).read_bytes() for file in files)
        return grpc.ssl_channel_credentials(root, key, certificate)

    @property
    def channel_options(self) -> list[tuple[str, str | int]]:
        """gRPC channel arguments."""
        return [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # gRPC retries only messages that fit in this buffer; the default, 256 KiB, is smaller than an image.
            ("grpc.per_rpc_retry_buffer_size", self.max_message_bytes),
            ("grpc.keepalive_time_ms", int(self.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", 20_000),
            # Reconnects to a restarted or moved server at once; gRPC's default backs off for up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            ("grpc.service_config", self._service_config()),
        ]

    def _service_config(self) -> str:
        """Returns the retry policy of streams. The client itself retries other calls, since calls may override it.

        Calls that reach a server just as it shuts down fail with CANCELLED.
        """
        method: dict[str, object] = {"name": [{"service": "cape.v1.PoseService", "method": "StreamEstimatePose"}]}
        if self.attempts > 1:
            method["retryPolicy"] = {
                "maxAttempts": self.attempts,
                "initialBackoff": f"{_FIRST_BACKOFF}s",
                "maxBackoff": f"{_LONGEST_BACKOFF}s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            }
        return json.dumps({"methodConfig": [method]})

    def retry_delay(self, error: CapeError, attempt: int, remaining: float | None) -> float | None:
        """Returns the seconds to wait before retrying a call.

        Args:
            error: the failure.
            attempt: number of attempts so far, from 1.
            remaining: seconds until the deadline; None for no limit.

        Returns:
            None if retrying is pointless.
        """
        if attempt >= self.attempts:
            return None
        if isinstance(error, OverloadedError):
            # Jitter and exponential backoff: the server has sent many other clients the same delay.
            delay = error.retry_after * 2 ** (attempt - 1) * random.uniform(1.0, 1.5)
        elif isinstance(error, UnavailableError | CancelledError):
            delay = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** (attempt - 1)) * random.uniform(0.8, 1.2)
        else:
            return None
        return delay if remaining is None or delay < remaining else None


def client_options(options: ConnectionOptions | None, changes: ClientOptions) -> ConnectionOptions:
    """Returns `options`, or the defaults, with `changes` applied."""
    return replace(options or ConnectionOptions(), **changes)


class Deadline:
    """Deadline of a call, retries included."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    @property
    def remaining(self) -> float | None:
        """Seconds left, at least 0; None for no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def reason_to_wait(error: CapeError, reason: str) -> str:
    """Returns why the server is not ready yet; raises errors that waiting cannot resolve."""
    if isinstance(error, DeadlineExceededError):
        return reason
    if isinstance(error, UnavailableError | CancelledError):
        return str(error)
    raise error


def not_ready(target: str, timeout: float, reason: str) -> UnavailableError:
    """The error for a server that did not become ready within `timeout` seconds."""
    return UnavailableError(f"{target} is not ready after {timeout:g} s: {reason}", grpc.StatusCode.UNAVAILABLE)
