"""LitServe with batching around the PyTorch model, in its own process, called over HTTP."""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from benchmarks.compare.candidates import AbsentError, Candidate, Points, Support
from benchmarks.harness.workloads import Workload

READY_SECONDS = 180.0

CALLERS = 16


@contextmanager
def litserve(support: Support, source: tuple[str, Path], asked: Sequence[Workload], log: Path) -> Iterator[Candidate]:
    """Runs LitServe for the duration of the block.

    Args:
        support: whether every request computes its support.
        source: 'checkpoint' or 'untrained', and its path.
        asked: the queries; all use the server's support.
        log: file for its output.

    Raises:
        AbsentError: LitServe is not installed, or does not start.
    """
    if importlib.util.find_spec("litserve") is None:
        raise AbsentError("LitServe is not installed: pip install litserve")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kind = "kept" if support == "kept" else "full"
    command = (sys.executable, "-m", "benchmarks.compare.candidates.litserve_model", str(port), kind, source[0])
    with log.open("wb") as output:
        # Its own session, so that its workers can be found and stopped with it.
        process = subprocess.Popen(
            (*command, str(source[1].resolve())), stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait(process, port, log)
            bodies = [_body(work) for work in asked]

            def ask(index: int, number: int) -> Points:
                return _ask(port, {**bodies[index], "number": number})

            ask(0, 0)
            # Its idle processes keep polling, which takes a sixth of a core here.
            os.killpg(process.pid, signal.SIGSTOP)
            turn = functools.partial(_running, process.pid)
            yield Candidate("LitServe, PyTorch", support, "float32", ask, CALLERS, turn)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
            # It stops its workers on Ctrl-C only.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # Some survive even that.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _running(group: int) -> Iterator[None]:
    """Resumes a stopped process group."""
    os.killpg(group, signal.SIGCONT)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGSTOP)


def _body(work: Workload) -> dict[str, object]:
    (box,) = work.boxes
    return {"image": base64.b64encode(work.image).decode(), "box": [box.x, box.y, box.width, box.height]}


def _ask(port: int, body: dict[str, object]) -> Points:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return np.array(json.load(answer)["keypoints"], dtype=np.float32)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > end:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise AbsentError(f"LitServe does not start: {lines[-1] if lines else 'it says nothing'}")
        time.sleep(0.2)
