"""A server in its own process: its address, resource use and metrics."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Served:
    """A running server.

    Attributes:
        target: "host:port" of its gRPC.
        pid: of its process.
        metrics: URL of its metrics; empty without.
    """

    target: str
    pid: int
    metrics: str = ""


class Serve(Protocol):
    """Runs a server of a repository for the duration of a block; it is ready when the block begins.

    Settings are those of `service.settings.Settings`; `cpus` are the CPUs that the process may use.
    """

    def __call__(
        self, repository: Path, settings: Mapping[str, object] = {}, cpus: frozenset[int] | None = None
    ) -> AbstractContextManager[Served]:
        """See the class docstring."""


@dataclass(frozen=True, slots=True)
class Batches:
    """Engine runs of a component, and the rows in them."""

    runs: int
    rows: int

    @property
    def mean(self) -> float:
        """Rows per run; 0 where there was none."""
        return self.rows / self.runs if self.runs else 0.0

    def since(self, before: Batches) -> Batches:
        """The difference since `before`."""
        return Batches(self.runs - before.runs, self.rows - before.rows)


def read_batches(served: Served) -> dict[str, Batches]:
    """The batches of every component since the server's start, as its metrics count them.

    Raises:
        OSError: the metrics do not answer.
    """
    with urllib.request.urlopen(served.metrics, timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        if family.name == "capeserve_batch_size":
            for sample in family.samples:
                found.setdefault(sample.labels["component"], {})[sample.name.rpartition("_")[2]] = sample.value
    return {name: Batches(int(values["count"]), int(values["sum"])) for name, values in found.items()}


def cpu_seconds(pid: int, proc: Path = Path("/proc")) -> float:
    """CPU time of a process since its start: all threads, user and system.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    # The second field, the program's name in brackets, may contain spaces.
    fields = (proc / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Resident memory of a process, in bytes.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    pages = int((proc / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
