"""What a HorizontalPodAutoscaler does with a metric of type Pods, AverageValue."""

from __future__ import annotations

import math
from collections.abc import Sequence

TOLERANCE = 0.1
"""kube-controller-manager's default: nothing changes while the ratio is this close to 1."""


def desired_replicas(values: Sequence[float], target: float, *, least: int, most: int) -> int:
    """Replicas that the autoscaler asks for.

    Args:
        values: the metric of every pod.
        target: averageValue.
        least, most: minReplicas and maxReplicas.
    """
    ratio = sum(values) / len(values) / target
    wanted = len(values) if abs(ratio - 1) <= TOLERANCE else math.ceil(sum(values) / target)
    return min(max(wanted, least), most)


def quantity(text: str) -> float:
    """A Kubernetes quantity such as '700m' or '1'."""
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
