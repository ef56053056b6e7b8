"""The accuracy gate of `capeserve quantise`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.measurement import Comparison, Open, compare
from benchmarks.harness.exported import ExportedEstimator
from cape.data.dataset import DatasetError, KeypointDataset
from cape.data.pairs import TestPlan
from cape.geometry import Crop
from cape.manifest import Manifest

JUDGED_AT = 0.2
"""PCK threshold of the gate."""

Progress = Callable[[str], None]


def calibration_crops(
    dataset: KeypointDataset, plan: TestPlan, manifest: Manifest, count: int, seed: int
) -> list[npt.NDArray[np.uint8]]:
    """Calibration crops of objects outside the plan's pairs, so that the check uses unseen objects.

    Args:
        dataset: source of the crops.
        plan: what the accuracy will be checked on.
        manifest: gives size and padding of the crops.
        count: how many.
        seed: of the choice.

    Raises:
        DatasetError: there are fewer, or one cannot be read.
    """
    asked = {number for episode in plan.episodes for number in (*episode.supports, *episode.queries)}
    others = [
        number for index in range(len(dataset.categories)) for number in dataset.objects(index) if number not in asked
    ]
    if len(others) < count:
        raise DatasetError(f"{dataset.name}: {len(others)} objects are left to calibrate on; {count} are needed")
    crops = []
    for number in np.random.default_rng(seed).choice(others, count, replace=False).tolist():
        found = dataset.load(number)
        box = found.box
        crop = Crop.around(box.x, box.y, box.width, box.height, size=manifest.image_size, padding=manifest.box_padding)
        crops.append(crop.extract(found.image))
    return crops


def compare_repositories(
    dataset: KeypointDataset, plan: TestPlan, before: Path, after: Path, progress: Progress = lambda text: None
) -> Comparison:
    """Compares a repository with its quantised version on the same pairs, both in ONNX Runtime."""

    def way(repository: Path) -> Open:
        return lambda: contextlib.closing(ExportedEstimator(repository))

    return compare(dataset, plan, {"float32": way(before), "int8 backbone": way(after)}, progress)
