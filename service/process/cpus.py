"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP_ROOT = Path("/sys/fs/cgroup")
"""Where control groups are: a container's own, or the machine's."""

OWN_GROUPS = Path("/proc/self/cgroup")
"""Which groups this process is in, by hierarchy: '0::/path' in version 2, '4:cpu,cpuacct:/path' in version 1."""


def available_cpus(cgroup: Path = CGROUP_ROOT, own: Path = OWN_GROUPS) -> int:
    """Processors that this process may keep busy: its affinity, or the least quota of its groups if that is less.

    `os.cpu_count` counts the machine's: on a large node a container limited to 2 CPUs would start 64 threads
    and be throttled for most of the time.

    Args:
        cgroup: folder of the control groups.
        own: file that says which of them are this process's.

    Returns:
        At least 1; a quota that is no whole number is rounded up.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders(cgroup, own) if (quota := _quota(folder)) is not None]
    return max(1, min(affinity, *(math.ceil(quota) for quota in quotas))) if quotas else affinity


def _folders(cgroup: Path, own: Path) -> Iterator[Path]:
    """Folders whose limits hold for this process: its groups and those above, as far as they can be seen from here."""
    # A container sees its own groups at the top, under names that /proc may not tell.
    yield cgroup
    yield cgroup / "cpu"
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy != "0" and "cpu" not in controllers.split(","):
            continue
        top = cgroup if hierarchy == "0" else cgroup / controllers
        inside = PurePosixPath(path.lstrip("/"))
        yield from (top / inside, *(top / parent for parent in inside.parents))


def _quota(folder: Path) -> float | None:
    """Processors that a group may use; None where it says nothing, or that there is no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        processors = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # 'max' is no number
    return processors if processors > 0 else None  # version 1 says -1
