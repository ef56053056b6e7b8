"""The HTTP port beside gRPC: metrics for Prometheus, and probes for where gRPC's own need certificates.

Kubernetes asks gRPC's health protocol only in the clear; with TLS on, it asks here.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from service.engine import RowRunner

Answer = Iterable[bytes]
Start = Callable[..., Any]


class Server(ThreadingMixIn, WSGIServer):
    """A thread a request: a slow scrape must not hold a probe up."""

    daemon_threads = True


class Server6(Server):
    """The same on IPv6."""

    address_family = socket.AF_INET6


class SilentHandler(WSGIRequestHandler):
    """Does not log every probe."""

    def log_message(self, format: str, *args: object) -> None:
        """See `http.server.BaseHTTPRequestHandler.log_message`."""


class ServerState:
    """Whether the server can answer, asked from any thread.

    Attributes:
        listening: calls are accepted; not before the start, nor once it is stopping.
    """

    def __init__(self, runner: RowRunner) -> None:
        """Takes what runs the models."""
        self._runner = runner
        self.listening = False

    @property
    def ready(self) -> bool:
        """Whether a call sent now is answered."""
        return self.listening and self._runner.healthy

    @property
    def alive(self) -> bool:
        """False where only a restart helps: an engine run hangs in this process."""
        return not self._runner.hanging


def start_http(host: str, port: int, registry: CollectorRegistry, state: ServerState) -> Callable[[], None]:
    """Serves /metrics, /readyz and /livez; the latter two answer 200 or 503.

    Args:
        host: address to listen on.
        port: 0 takes a free one.
        registry: the metrics.
        state: what the probes say.

    Returns:
        What stops it.

    Raises:
        OSError: the port is taken, or the host not ours.
    """
    metrics = make_wsgi_app(registry)

    def application(environment: dict[str, Any], start: Start) -> Answer:
        path = environment.get("PATH_INFO", "")
        if path not in ("/livez", "/readyz"):
            answer: Answer = metrics(environment, start)
            return answer
        fine = state.ready if path == "/readyz" else state.alive
        start("200 OK" if fine else "503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"ok\n" if fine else b"no\n"]

    family = Server6 if ":" in host else Server
    server = make_server(host, port, application, family, handler_class=SilentHandler)
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
