"""Runs a gateway with uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn

from gateway.application import create_application
from gateway.settings import GatewaySettings


class AddressInUseError(OSError):
    """Another program listens on the address."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 is any free one.

    Raises:
        AddressInUseError: the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AddressInUseError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def url(listener: socket.socket) -> str:
    """Where a browser on this machine finds what listens."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(settings: GatewaySettings, listener: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    _server(settings).run(sockets=[listener])


@contextlib.contextmanager
def running_gateway(settings: GatewaySettings) -> Iterator[str]:
    """A gateway on a free port in a thread of its own, for notebooks and tests.

    Yields:
        Its URL, with a slash at the end.
    """
    listener = listening_socket("127.0.0.1", 0)
    server = _server(settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    try:
        # The socket listens already: whoever connects before the application has started waits for it.
        listener.listen()
        yield url(listener)
    finally:
        server.should_exit = True
        thread.join()


def _server(settings: GatewaySettings) -> uvicorn.Server:
    configuration = uvicorn.Config(
        create_application(settings), log_level="warning", timeout_graceful_shutdown=10, server_header=False
    )
    return uvicorn.Server(configuration)
