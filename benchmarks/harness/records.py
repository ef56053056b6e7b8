"""Benchmark records: JSON with every number, Markdown to read, and a plot, each with its origin.

A record is rewritten after every step of a measurement, so that an interrupted run keeps its results so far.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness.machine import describe_machine
from benchmarks.harness.tables import ReportTable, markdown_table
from service.process.cpus import available_cpus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parents[1] / "results"
"""Default folder of records."""

LIBRARIES = ("capeserve", "grpcio", "numpy", "onnxruntime", "openvino", "opencv-python-headless", "pillow", "torch")
"""Distributions whose versions a result depends on; those that are not installed are left out."""

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
"""CPU features that determine the speed of matrix products, as named in /proc/cpuinfo."""


@dataclass(slots=True)
class Record:
    """A measurement in progress.

    Attributes:
        name: name of its files.
        title: heading of the Markdown.
        command: as typed.
        folder: where its files go.
        origin: machine, versions and date, see `origin`.
    """

    name: str
    title: str
    command: str
    folder: Path
    origin: dict[str, Any] = field(default_factory=lambda: origin())

    def write(
        self,
        document: dict[str, Any],
        tables: Sequence[ReportTable],
        draw: Callable[[Figure], None] | None = None,
    ) -> list[Path]:
        """Writes `<name>.json`, `<name>.md` and, if `draw` is given, `<name>.png`.

        Args:
            document: every number, ready for JSON.
            tables: for the Markdown.
            draw: draws the plot; ignored without matplotlib.

        Returns:
            The files.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        origin = {"command": self.command, **self.origin}
        paths = [self.folder / f"{self.name}.json", self.folder / f"{self.name}.md"]
        _replace(paths[0], json.dumps({**origin, **document}, indent=2) + "\n")
        _replace(paths[1], f"# {self.title}\n\n" + "\n".join(map(markdown_table, tables)) + "\n" + footer(origin))
        if draw is not None and (figure := _figure()) is not None:
            draw(figure)
            # In the plot too, since plots are copied without their text.
            figure.supxlabel(f"{origin['machine']}, {origin['date'][:10]}; {self.command[:110]}", fontsize=6)
            paths.append(self.folder / f"{self.name}.png")
            figure.savefig(paths[-1], dpi=120)
        return paths


def origin() -> dict[str, Any]:
    """Machine, load before the measurement, versions and UTC time."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "cpus": available_cpus(),
        "instructions": instructions(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed `LIBRARIES`."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Which of `INSTRUCTIONS` the CPU has; empty if /proc/cpuinfo is missing."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
    return [name for name in INSTRUCTIONS if name in flags]


def footer(origin: dict[str, Any]) -> str:
    """Origin of a result as one Markdown paragraph."""
    libraries = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    return (
        f"{origin['machine']} ({', '.join(origin['instructions']) or 'no vector extensions named'}), "
        f"{origin['cpus']} usable; load {origin['load_before']} before the run; {libraries}; {origin['date']}.\n\n"
        f"`{origin['command']}`\n"
    )


def _replace(path: Path, text: str) -> None:
    """Writes a file atomically: a run may be interrupted at any time."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _figure() -> Figure | None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    return Figure(figsize=(7.5, 5), layout="constrained")
