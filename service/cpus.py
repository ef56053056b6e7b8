"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
"""Where containers see their own control group (version 2)."""


def available_cpus(cgroup: Path = CGROUP_ROOT) -> int:
    """Processors that this process may keep busy: its affinity, or its container's quota if that is less.

    `os.cpu_count` counts the machine's: on a large node a container limited to 2 CPUs would start 64 threads
    and be throttled for most of the time.

    Args:
        cgroup: folder of the control group.

    Returns:
        At least 1; a quota that is no whole number is rounded up.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return max(1, min(affinity, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        # No control group, or 'max': no quota.
        return affinity
