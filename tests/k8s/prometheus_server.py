"""Debian's Prometheus, started for a test."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """A running one."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, path: str, **parameters: str) -> dict:
        """An answer of its HTTP API."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """The numbers that an expression has now; not those that are none."""
        found = [float(sample["value"][1]) for sample in self.get("query", query=expression)["result"]]
        return [value for value in found if not math.isnan(value)]

    def wait_for(self, expression: str, seconds: float = 60) -> list[float]:
        """Its numbers, once it has one; none where that takes too long."""
        end = time.monotonic() + seconds
        while not (values := self.values(expression)) and time.monotonic() < end:
            time.sleep(0.5)
        return values


@contextmanager
def running_prometheus(binary: str, folder: Path, rules: Path, targets: dict[str, str]) -> Iterator[Prometheus]:
    """Prometheus until the block is left.

    Args:
        binary: the program.
        folder: for its configuration, data and log.
        rules: rule file.
        targets: 'host:port' to scrape every second, by the name of the job.
    """
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [target], "labels": {"namespace": "test", "pod": f"{job}-0"}}],
            }
            for job, target in targets.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    command = [binary, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        server = Prometheus(address)
        end = time.monotonic() + 60
        while True:
            try:
                server.get("query", query="vector(1)")
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, "Prometheus does not answer"
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(30)
