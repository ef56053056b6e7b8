"""A soak: mixed traffic to real servers, while they are killed, stopped and starved, for as long as one likes.

It ends with a count: sent, answered right, refused with the right code, wrong, lost. The last two must be 0.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.cast import Cast, rehearse
from benchmarks.soak.ledger import Disturbances, Ledger
from benchmarks.soak.server import HANG_SECONDS
from benchmarks.soak.traffic import Caller, Place
from cape.client import CapeError, Client, ConnectionOptions

READY_SECONDS = 180.0
"""Until a server must answer; on a busy machine loading takes long."""

END_SECONDS = 90.0
"""After the last call was begun: until then all must have ended."""

FAULT_PAUSE = (8.0, 25.0)
"""Seconds between two faults."""


class SoakError(RuntimeError):
    """A soak that cannot go on; the message is one line."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a soak.

    Attributes:
        seconds: how long traffic was sent.
        ledger: what became of the requests.
        faults: how often what was done to the servers.
        least_distance: see `Cast.least_distance`.
    """

    seconds: float
    ledger: Ledger
    faults: dict[str, int]
    least_distance: float


@dataclass(slots=True)
class _Process:
    """A program that is started again and again with the same command."""

    command: list[str]
    log: Path
    popen: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(self.command, stdout=log, stderr=log)

    def signal(self, number: int) -> None:
        assert self.popen is not None
        self.popen.send_signal(number)

    def end(self, number: int) -> int:
        """Ends it with a signal; returns the exit code."""
        self.signal(number)
        assert self.popen is not None
        try:
            return self.popen.wait(timeout=READY_SECONDS)
        except subprocess.TimeoutExpired:
            raise SoakError(f"a process does not end after signal {number}; its log: {self._last_line()}") from None

    def hung(self) -> bool:
        """Whether it says that it ended while its engine hung, as the soak makes it do."""
        return self._last_line().endswith("an engine run that hangs")

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""


class _Stage:
    """The servers, the Redis that they share where there is one, and what is done to them."""

    def __init__(self, repository: Path, folder: Path, replicas: int, redis: bool, fault_rate: float) -> None:
        registry = f"sqlite:///{folder}/supports.sqlite3"
        self.redis: _Process | None = None
        if redis:
            binary = shutil.which("redis-server")
            if binary is None:
                raise SoakError("redis-server is not installed (Debian package redis-server)")
            port = _free_port()
            command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
            command += ["--appendonly", "yes", "--appendfsync", "always"]
            self.redis = _Process(command, folder / "redis.log")
            registry = f"redis://127.0.0.1:{port}/0"
        self.places: list[Place] = []
        self.servers: list[_Process] = []
        for number in range(replicas):
            port = _free_port()
            settings = {
                "repository": str(repository),
                "port": port,
                "metrics_port": 0,
                "registry": registry,
                "max_in_flight": 24,
                "max_queue": 48,
                "hang_seconds": HANG_SECONDS,
                "drain_seconds": 30,
            }
            command = [sys.executable, "-m", "benchmarks.soak.server", json.dumps(settings), str(fault_rate)]
            self.servers.append(_Process(command, folder / f"server_{number}.log"))
            self.places.append(Place(f"127.0.0.1:{port}", Disturbances()))
        self.faults: dict[str, int] = {}
        self.exit_codes: list[int] = []

    def start(self) -> None:
        for process in (*([self.redis] if self.redis else []), *self.servers):
            process.start()
        for place in self.places:
            self.wait(place)

    def wait(self, place: Place) -> None:
        with Client(place.target, ConnectionOptions(attempts=1)) as client:
            try:
                client.wait_ready(READY_SECONDS)
            except CapeError as error:
                raise SoakError(f"a server did not become ready: {error}") from None

    def disturb(self) -> None:
        """Does something bad at random, and waits until it is over."""
        number = random.randrange(len(self.servers))
        faults: dict[str, Callable[[], None]] = {
            "server killed (SIGKILL) and started again": lambda: self._restart(number, signal.SIGKILL),
            "server ended (SIGTERM) and started again": lambda: self._restart(number, signal.SIGTERM),
            "server stopped (SIGSTOP) for a while": lambda: self._pause(self.servers[number], [self.places[number]]),
        }
        if self.redis is not None:
            redis = self.redis
            faults["Redis killed (SIGKILL) and started again"] = lambda: self._restart_redis(redis)
            faults["Redis stopped (SIGSTOP) for a while"] = lambda: self._pause(redis, self.places)
        name = random.choice(list(faults))
        faults[name]()
        self.faults[name] = self.faults.get(name, 0) + 1

    def _restart(self, number: int, how: signal.Signals) -> None:
        with self.places[number].disturbances.now():
            code = self.servers[number].end(how)
            if how is signal.SIGTERM and not self.servers[number].hung():
                self.exit_codes.append(code)
            time.sleep(random.uniform(0, 2))
            self.servers[number].start()
            self.wait(self.places[number])

    def _restart_redis(self, redis: _Process) -> None:
        with _all_disturbed(self.places):
            redis.end(signal.SIGKILL)
            time.sleep(random.uniform(0, 3))
            redis.start()
            time.sleep(2)

    def _pause(self, process: _Process, places: list[Place]) -> None:
        with _all_disturbed(places):
            process.signal(signal.SIGSTOP)
            time.sleep(random.uniform(0.2, 4))
            process.signal(signal.SIGCONT)

    def close(self) -> None:
        for process in (*self.servers, *([self.redis] if self.redis else [])):
            if process.popen is not None and process.popen.poll() is None:
                process.signal(signal.SIGCONT)
                process.end(signal.SIGKILL)


def soak(
    repository: Path,
    *,
    minutes: float,
    callers: int = 12,
    replicas: int = 1,
    redis: bool = False,
    fault_rate: float = 0.002,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Runs a soak.

    Args:
        repository: an exported repository; its default system must take images and texts.
        minutes: how long to send traffic.
        callers: threads that send it.
        replicas: servers; several need a Redis.
        redis: keep supports in a Redis of its own, which has faults too; else in an SQLite file.
        fault_rate: share of the engine's runs that go wrong.
        seed: of what is sent.
        progress: told what happens, a line at a time.

    Raises:
        SoakError: the servers cannot be started, or do not come back.
    """
    if replicas > 1 and not redis:
        raise SoakError("several replicas share nothing but a Redis")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capeserve_soak_")))
        cast = _rehearsal(repository, folder, seed)
        progress(f"rehearsed; two supports' answers differ by {cast.least_distance:.2g} of an image at least")
        stage = _Stage(repository, folder, replicas, redis, fault_rate)
        stack.callback(stage.close)
        stage.start()
        names = _register(cast, stage.places[0])
        ledger = Ledger()
        started = time.monotonic()
        until = started + minutes * 60
        actors = [Caller(number + seed * 1000, stage.places, names, cast, ledger) for number in range(callers)]
        threads = [threading.Thread(target=actor.run, args=(until,), daemon=True) for actor in actors]
        for thread in threads:
            thread.start()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, random.uniform(*FAULT_PAUSE)))
            if time.monotonic() < until:
                stage.disturb()
                progress(f"{sum(stage.faults.values())} faults, {ledger.sent.total()} requests sent")
        end = time.monotonic() + END_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        stuck = sum(thread.is_alive() for thread in threads)
        seconds = time.monotonic() - started
        if stuck or ledger.unaccounted:
            ledger.count_lost("call", f"{stuck} callers wait for an answer that does not come", ledger.unaccounted)
        for code in stage.exit_codes:
            if code != 0:
                ledger.count_wrong("SIGTERM", f"exit code {code}")
        _check_supports(stage, names, ledger)
        return Outcome(seconds, ledger, stage.faults, cast.least_distance)


def _rehearsal(repository: Path, folder: Path, seed: int) -> Cast:
    """The right answers, from a server without faults."""
    stage = _Stage(repository, folder, 1, redis=False, fault_rate=0.0)
    try:
        stage.start()
        with Client(stage.places[0].target) as client:
            return rehearse(client, seed)
    finally:
        stage.close()


def _register(cast: Cast, place: Place) -> list[str]:
    # The engine fails now and then from the start; creating twice is harmless.
    with Client(place.target) as client:
        return [client.create_support(support).name for support in cast.supports]


def _check_supports(stage: _Stage, names: list[str], ledger: Ledger) -> None:
    """Every support that was registered must be there, on every server."""
    for place in stage.places:
        with Client(place.target) as client:
            there = {support.name for support in client.list_supports()}
        for name in names:
            ledger.count_sent("kept support")
            if name in there:
                ledger.count_right("kept support")
            else:
                ledger.count_lost("kept support", name)


@contextmanager
def _all_disturbed(places: list[Place]) -> Iterator[None]:
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(place.disturbances.now())
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
