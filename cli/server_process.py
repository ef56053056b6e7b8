"""Runs `capeserve serve` in its own process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cape.client import Client
from cape.client.errors import UnavailableError

_COMMAND = (sys.executable, "-c", "from cli.main import main; main()", "serve")
"""The command line of `capeserve serve`, independent of PATH."""

_STOP_SECONDS = 40.0
"""Seconds until a stopping server is killed; it finishes running calls within 30 s."""


class ServerStartError(RuntimeError):
    """The server ended before it was ready; the message is its last line of output."""


@contextmanager
def server_process(
    repository: Path,
    *,
    port: int = 0,
    log: Path | None = None,
    ready_seconds: float = 120.0,
    settings: Mapping[str, object] | None = None,
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Runs a server for the duration of a block; supports are kept in memory only.

    In the main thread SIGTERM ends the block like Ctrl-C, so that no server stays behind.

    Args:
        repository: an exported repository.
        port: to listen on; 0 for a free port.
        log: file for its output; None for this process's error stream.
        ready_seconds: seconds until it must be ready.
        settings: other settings of `service.settings.Settings`, by name.

    Yields:
        The process and its target, "host:port".

    Raises:
        ServerStartError: it ended or did not become ready in time.
    """
    port = free_port(port)
    target = f"127.0.0.1:{port}"
    fixed = {"repository": repository, "host": "127.0.0.1", "port": port, "metrics_port": 0, "registry": "sqlite://"}
    arguments = tuple(_flags(fixed | dict(settings or {})))
    output = None if log is None else log.open("wb")
    with _sigterm_interrupts():
        process = subprocess.Popen((*_COMMAND, *arguments), stdout=output, stderr=output)
        try:
            _wait(process, target, ready_seconds, log)
            yield process, target
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if output is not None:
                output.close()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt, so that clean-up runs; only possible in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _flags(settings: Mapping[str, object]) -> Iterator[str]:
    """Settings as `capeserve serve` takes them: one flag for each, one for each value of a tuple."""
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
            continue
        for one in value if isinstance(value, tuple) else (value,):
            yield from (f"--{flag}", str(one))


def free_port(wanted: int) -> int:
    """The given port if it is free; any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            raise ServerStartError(f"port {wanted} is in use by another program") from None
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], target: str, seconds: float, log: Path | None) -> None:
    end = time.monotonic() + seconds
    with Client(target) as client:
        while True:
            try:
                client.wait_ready(timeout=1.0)
            except UnavailableError as error:
                if process.poll() is not None:
                    lines = log.read_text(errors="replace").strip().splitlines() if log is not None else []
                    raise ServerStartError(lines[-1] if lines else "the server ended before it was ready") from None
                if time.monotonic() > end:
                    raise ServerStartError(str(error)) from None
            else:
                return
