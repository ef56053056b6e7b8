"""The machine that a benchmark ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def describe_machine() -> str:
    """Name of the CPU and number of cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a CPU without a model name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} × {name}"


def gpu_name() -> str:
    """Name of the first NVIDIA GPU; empty where there is none."""
    try:
        listed = subprocess.run(
            ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"), capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return listed.stdout.strip().partition("\n")[0]
