"""The results of `capeserve bench engine`: JSON, Markdown, and a plot of throughput by batch size."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.engine.measurement import SystemSpeed
from benchmarks.harness.machine import describe_machine

HEADER = ("system", "engine", "cold p50", "p95", "p99", "paper", "× paper", "warm p50", "p95", "p99", "queries/s")


def rows(speeds: Sequence[SystemSpeed]) -> list[tuple[str, ...]]:
    """Milliseconds; the best throughput over batch sizes."""
    found = []
    for speed in speeds:
        paper = speed.paper_seconds
        found.append(
            (
                speed.system,
                speed.engine,
                *(f"{1000 * seconds:.2f}" for seconds in (speed.cold.p50, speed.cold.p95, speed.cold.p99)),
                "–" if paper is None else f"{1000 * paper:.2f}",
                "–" if paper is None else f"{paper / speed.cold.p50:.2f}",
                *(f"{1000 * seconds:.2f}" for seconds in (speed.warm.p50, speed.warm.p95, speed.warm.p99)),
                f"{max(speed.throughput.values()):.1f}",
            )
        )
    return found


def document(speeds: Sequence[SystemSpeed], repository: dict[str, Any], command: str, device: str) -> dict[str, Any]:
    """Everything as JSON; times in seconds."""
    import onnxruntime

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": describe_machine(),
        "device": device,
        "onnxruntime": onnxruntime.__version__,
        "repository": repository,
        "systems": [asdict(speed) for speed in speeds],
    }


def markdown(found: dict[str, Any], speeds: Sequence[SystemSpeed]) -> str:
    """The table with its origin."""
    repository = found["repository"]
    lines = [
        "# Engine latency and throughput",
        "",
        "Milliseconds, the engine by itself. Cold: a query with a new support image and new texts, batch 1, what the",
        "paper's Table 5 counts on an RTX 3060. Warm: a query whose support is cached, batch 1. Queries/s: warm, at",
        "the best batch size.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---|---|" + "--:|" * (len(HEADER) - 2),
        *("| " + " | ".join(row) + " |" for row in rows(speeds)),
        "",
        "## Warm queries per second by batch size",
        "",
    ]
    sizes = sorted({batch for speed in speeds for batch in speed.throughput})
    lines += ["| system | " + " | ".join(map(str, sizes)) + " |", "|---|" + "--:|" * len(sizes)]
    for speed in speeds:
        cells = (f"{speed.throughput[size]:.1f}" if size in speed.throughput else "–" for size in sizes)
        lines.append(f"| {speed.system}, {speed.engine} | " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"{found['device']}; {found['machine']}; ONNX Runtime {found['onnxruntime']}; "
            f"{', '.join(repository['backbones'])}; {found['date']}. `{found['command']}`",
            "",
        ]
    )


def write_results(
    output: Path, name: str, speeds: Sequence[SystemSpeed], repository: dict[str, Any], command: str, device: str
) -> list[Path]:
    """Writes `<name>.json`, `<name>.md` and, where matplotlib is installed, `<name>.png`; returns them."""
    output.mkdir(parents=True, exist_ok=True)
    found = document(speeds, repository, command, device)
    paths = [output / f"{name}.json", output / f"{name}.md"]
    paths[0].write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(found, speeds), encoding="utf-8")
    plot = output / f"{name}.png"
    if _plot(speeds, device, plot):
        paths.append(plot)
    return paths


def _plot(speeds: Sequence[SystemSpeed], device: str, path: Path) -> bool:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for speed in speeds:
        (line,) = axes.plot(
            list(speed.throughput), list(speed.throughput.values()), marker="o", label=f"{speed.system}, {speed.engine}"
        )
        if speed.paper_seconds is not None:
            axes.axhline(1 / speed.paper_seconds, color=line.get_color(), linestyle=":", linewidth=1)
    axes.set(
        xscale="log", xlabel="batch size", ylabel="warm queries per second", title=f"{device} (dotted: the paper's FPS)"
    )
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return True
