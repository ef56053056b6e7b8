"""Runs a soak: mixed traffic to real servers that are killed, stopped and starved, for a given time.

It ends with counts: sent, right, refused with the right code, wrong, lost. The last two must be 0.
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

from benchmarks.soak.expected_answers import ExpectedAnswers, record_answers
from benchmarks.soak.faulty_server import HANG_SECONDS
from benchmarks.soak.ledger import Disturbances, Ledger
from benchmarks.soak.traffic import Caller, Place
from cape.client import CapeError, Client, ConnectionOptions

READY_SECONDS = 180.0
"""Seconds until a server must answer; loading is slow on a busy machine."""

END_SECONDS = 90.0
"""Seconds after the last call by which all must have ended."""

FAULT_PAUSE = (8.0, 25.0)
"""Seconds between two faults."""


class SoakError(RuntimeError):
    """The soak cannot go on; the message is one line."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a soak.

    Attributes:
        seconds: duration of the traffic.
        ledger: outcomes of the requests.
        faults: number of injected faults by kind.
        least_distance: see `ExpectedAnswers.least_distance`.
    """

    seconds: float
    ledger: Ledger
    faults: dict[str, int]
    least_distance: float


@dataclass(slots=True)
class _Process:
    """A process that is restarted with the same command."""

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
        """Stops it with a signal; returns the exit code."""
        self.signal(number)
        assert self.popen is not None
        try:
            return self.popen.wait(timeout=READY_SECONDS)
        except subprocess.TimeoutExpired:
            raise SoakError(f"a process does not end after signal {number}; its log: {self._last_line()}") from None

    def hung(self) -> bool:
        """Whether its log says that it ended while its engine hung, which the soak provokes."""
        return self._last_line().endswith("an engine run that hangs")

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""


class _Stage:
    """The servers, their shared Redis if there is one, and the faults injected into them."""

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
            command = [sys.executable, "-m", "benchmarks.soak.faulty_server", json.dumps(settings), str(fault_rate)]
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
        """Injects a random fault and waits until it is over."""
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
        minutes: duration of the traffic.
        callers: threads that send traffic.
        replicas: number of servers; several need Redis.
        redis: keep supports in a Redis that has faults too; else in an SQLite file.
        fault_rate: fraction of engine runs that fail.
        seed: of the traffic.
        progress: called with one line of progress at a time.

    Raises:
        SoakError: the servers cannot be started, or do not come back.
    """
    if replicas > 1 and not redis:
        raise SoakError("several replicas need a shared Redis")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capeserve_soak_")))
        expected = _record_answers(repository, folder, seed)
        progress(
            f"expected answers recorded; two supports differ by at least {expected.least_distance:.2g} of an image"
        )
        stage = _Stage(repository, folder, replicas, redis, fault_rate)
        stack.callback(stage.close)
        stage.start()
        names = _register(expected, stage.places[0])
        ledger = Ledger()
        started = time.monotonic()
        until = started + minutes * 60
        actors = [Caller(number + seed * 1000, stage.places, names, expected, ledger) for number in range(callers)]
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
            ledger.count_lost("call", f"{stuck} callers still wait for an answer", ledger.unaccounted)
        for code in stage.exit_codes:
            if code != 0:
                ledger.count_wrong("SIGTERM", f"exit code {code}")
        _check_supports(stage, names, ledger)
        return Outcome(seconds, ledger, stage.faults, expected.least_distance)


def _record_answers(repository: Path, folder: Path, seed: int) -> ExpectedAnswers:
    """Records the expected answers of a server without faults."""
    stage = _Stage(repository, folder, 1, redis=False, fault_rate=0.0)
    try:
        stage.start()
        with Client(stage.places[0].target) as client:
            return record_answers(client, seed)
    finally:
        stage.close()


def _register(expected: ExpectedAnswers, place: Place) -> list[str]:
    # The engine fails at random from the start; creating a support twice is harmless.
    with Client(place.target) as client:
        return [client.create_support(support).name for support in expected.supports]


def _check_supports(stage: _Stage, names: list[str], ledger: Ledger) -> None:
    """Checks that every registered support is on every server."""
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
