"""What a benchmark leaves behind: JSON with every number, Markdown to read, and a plot, each saying where it is from.

A record is written again after every step of a measurement, so that a run that is cut short leaves what it had.
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
from service.cpus import available_cpus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parents[1] / "results"
"""Where records go unless told otherwise."""

LIBRARIES = ("capeserve", "grpcio", "numpy", "onnxruntime", "openvino", "opencv-python-headless", "pillow", "torch")
"""Distributions whose versions a result depends on; those that are not installed are left out."""

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
"""Processor features that decide how fast matrices are multiplied, as /proc/cpuinfo names them."""


@dataclass(slots=True)
class Record:
    """A measurement under way.

    Attributes:
        name: name of its files.
        title: heading of the Markdown.
        command: what made it, as typed.
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
        """Writes `<name>.json`, `<name>.md` and, where there is something to draw, `<name>.png`.

        Args:
            document: every number, ready for JSON.
            tables: what a person reads of it.
            draw: draws it; without matplotlib there is no plot.

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
            # On the picture too: it is what gets copied without its text.
            figure.supxlabel(f"{origin['machine']}, {origin['date'][:10]}; {self.command[:110]}", fontsize=6)
            paths.append(self.folder / f"{self.name}.png")
            figure.savefig(paths[-1], dpi=120)
        return paths


def origin() -> dict[str, Any]:
    """The machine, how busy it was before anything was measured, versions, and the time in UTC."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "cpus": available_cpus(),
        "instructions": instructions(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Python's version, and those of `LIBRARIES` that are installed."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Which of `INSTRUCTIONS` the processor has; none where Linux does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
    return [name for name in INSTRUCTIONS if name in flags]


def footer(origin: dict[str, Any]) -> str:
    """One paragraph of Markdown: where a result is from."""
    libraries = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    return (
        f"{origin['machine']} ({', '.join(origin['instructions']) or 'no vector extensions named'}), "
        f"{origin['cpus']} usable; load {origin['load_before']} before the run; {libraries}; {origin['date']}.\n\n"
        f"`{origin['command']}`\n"
    )


def _replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all: a run may be cut short at any moment."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _figure() -> Figure | None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    return Figure(figsize=(7.5, 5), layout="constrained")
