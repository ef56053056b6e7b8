"""Starting, watching and stopping the local Triton server."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from cape.manifest import ManifestError, read_manifest
from export.triton.blocks import CONFIGURATION
from export.triton.local.environment import Installation

CACHE_BYTES = 64 << 20
"""Response cache for text embeddings: 20,000 of 768 numbers."""

STOP_SECONDS = 40.0
"""Triton finishes what runs before it ends; its own limit is 30 s."""

SHARED_MEMORY = re.compile(r"/dev/shm/triton_\S+")
"""Regions that the server and its backend processes share, as Linux lists what a process has mapped."""

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""

FAILURE = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*?)\"?$")
"""How Triton's log says that a model could not be loaded."""

_LIBC = ctypes.CDLL(None)


class TritonStartError(RuntimeError):
    """Triton did not become ready; the message names the model or file, and says what is wrong with it."""


class Ports(NamedTuple):
    """Where Triton listens; 0 takes a free port."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


class TritonProcess:
    """A Triton server that has been started.

    Attributes:
        process: the server itself.
        http, grpc, metrics: "host:port" of its three servers.
    """

    def __init__(
        self,
        installation: Installation,
        repository: Path,
        host: str,
        ports: Ports,
        cache_bytes: int,
        log: IO[bytes],
        traces: str = "",
    ) -> None:
        """Starts it; see `triton_server`, which also waits for it and stops it."""
        numbers = Ports(*(_free_port(host, port) for port in ports))
        self.http, self.grpc, self.metrics = (f"{host}:{port}" for port in numbers)
        self._shared_memory: set[Path] = set()
        command = [
            str(installation.binary),
            f"--model-repository={repository}",
            f"--backend-directory={installation.backends}",
            f"--cache-directory={installation.caches}",
            f"--cache-config=local,size={cache_bytes}",
            "--disable-auto-complete-config",  # the configurations are complete, and guessing starts every model twice
            *(f"--{name}-port={port}" for name, port in numbers._asdict().items()),
            *(f"--{name}-address={host}" for name in Ports._fields),
            *(trace_flags(traces) if traces else ()),
        ]
        self._last_lines: deque[str] = deque(maxlen=20)
        self._failures: dict[str, str] = {}
        self.process = subprocess.Popen(
            command,
            env=installation.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches this process alone, which tells Triton to stop once: told twice, it drops what runs. And
            # the processes that Triton starts can be told apart.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()

    @property
    def ready(self) -> bool:
        """Whether it answers, with every model loaded and warm."""
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/health/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_ready(self, seconds: float) -> None:
        """Waits until it is ready.

        Raises:
            TritonStartError: it ended, or is not ready after `seconds`.
        """
        end = time.monotonic() + seconds
        while not self.ready:
            if self.process.poll() is not None:
                self._reader.join(timeout=5)
                raise TritonStartError(self._complaint())
            if time.monotonic() > end:
                raise TritonStartError(f"Triton is not ready after {seconds:.0f} s; its log says what it is doing")
            time.sleep(0.1)
        # Read now: a process that has been killed says nothing any more.
        maps = Path(f"/proc/{self.process.pid}/maps").read_text(encoding="utf-8", errors="replace")
        self._shared_memory = {Path(found) for found in SHARED_MEMORY.findall(maps)}

    def stop(self) -> int:
        """Lets it finish what runs, and returns its exit code; negative: the signal that ended it."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        code = self.process.wait()
        self._clean_up()
        self._reader.join(timeout=5)
        return code

    def _clean_up(self) -> None:
        """Removes what a server that was killed outright leaves behind: backend processes and their shared memory."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for path in self._shared_memory:
            path.unlink(missing_ok=True)

    def _read(self, log: IO[bytes]) -> None:
        """Passes the log on, and remembers what matters if the start fails."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            log.write(line)
            log.flush()
            text = line.decode(errors="replace").rstrip()
            if text:
                self._last_lines.append(text)
            if failure := FAILURE.search(text):
                self._failures[failure["model"]] = failure["reason"]

    def _complaint(self) -> str:
        if self._failures:
            return "; ".join(f"{model}: {reason}" for model, reason in sorted(self._failures.items()))
        errors = [line for line in self._last_lines if "error" in line.lower()]
        return (errors or [*self._last_lines, f"Triton ended with code {self.process.returncode}"])[-1]


@contextmanager
def triton_server(
    installation: Installation,
    repository: Path,
    *,
    log: IO[bytes],
    host: str = "127.0.0.1",
    ports: Ports = Ports(),  # noqa: B008 (immutable)
    cache_bytes: int = CACHE_BYTES,
    ready_seconds: float = 300.0,
    traces: str = "",
) -> Iterator[TritonProcess]:
    """A Triton server until the block is left.

    Args:
        installation: from `export.triton.local.environment.install`.
        repository: what `capeserve export` wrote.
        log: where Triton's log goes.
        host: address that it listens on.
        ports: where; 0 takes a free port.
        cache_bytes: size of its response cache.
        ready_seconds: how long loading and warming up may take.
        traces: OTLP collector (HTTP) that gets spans of requests that bring a traceparent; empty: none.

    Raises:
        TritonStartError: the repository is not whole, a port is taken, or Triton cannot load a model.
    """
    check_repository(repository)
    server = TritonProcess(installation, repository, host, ports, cache_bytes, log, traces)
    try:
        server.wait_ready(ready_seconds)
        yield server
    finally:
        server.stop()


def trace_flags(url: str) -> tuple[str, ...]:
    """Flags that make Triton continue its callers' traces, and begin none itself.

    Args:
        url: of an OTLP collector's HTTP endpoint, 'http://HOST:4318/v1/traces'.
    """
    settings = ("mode=opentelemetry", f"opentelemetry,url={url}", "level=TIMESTAMPS", "rate=0")
    return tuple(f"--trace-config={setting}" for setting in settings)


def supervise(server: TritonProcess, announce: Callable[[], None]) -> int:
    """Waits until Triton ends, passing SIGTERM and Ctrl-C on to it; in the main thread.

    Args:
        server: which is ready.
        announce: called once signals are passed on, and whoever hears of the server may send one.

    Returns:
        Its exit code, or 128 and the number of the signal that ended it, as shells say it.
    """

    def stop(number: int, frame: object) -> None:
        server.process.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        announce()
        code = server.process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def check_repository(repository: Path) -> None:
    """Looks for every file that Triton will want, since its own messages leave out paths.

    Raises:
        TritonStartError: naming the file that is missing or wrong.
    """
    try:
        manifest = read_manifest(repository)
    except ManifestError as error:
        raise TritonStartError(str(error)) from None
    for name in (*manifest.components, *manifest.support_systems):
        path = repository / name / CONFIGURATION
        if not path.is_file():
            raise TritonStartError(f"{path}: missing; this capeserve's export writes it")


def _free_port(host: str, wanted: int) -> int:
    """The wanted port if nobody listens on it; any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            raise TritonStartError(f"cannot listen on {host}:{wanted}: {error.strerror}") from None
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """In the new process: lets the kernel stop it should this one be killed outright."""
    _LIBC.prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
