"""Pictures of coloured dots as a COCO file, and runs on them that take a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import tiny_configuration

COLOURS = ((230, 30, 30), (30, 200, 40), (50, 80, 240), (240, 220, 40), (220, 60, 220))
SIZE = 96


def write_dots(folder: Path, *, objects: int = 4) -> Path:
    """Writes pictures of two categories, of three and of five dots, and their annotations."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    document: dict[str, list[dict[str, Any]]] = {"categories": [], "images": [], "annotations": []}
    number = 0
    for category, count in ((1, 3), (2, 5)):
        document["categories"].append(
            {
                "id": category,
                "name": f"{count} dots",
                "supercategory": "dots",
                "keypoints": ["red dot", "green dot", "blue dot", "yellow dot", "purple dot"][:count],
                "skeleton": [[0, 1], [1, 2]],
            }
        )
        for _ in range(objects):
            number += 1
            generator = np.random.default_rng(number)
            picture = generator.integers(90, 140, size=(SIZE, SIZE, 3)).astype(np.uint8)
            cells = generator.choice(9, size=count, replace=False)
            points = np.stack((cells % 3, cells // 3), axis=1) * 26 + generator.integers(16, 28, size=(count, 2))
            y, x = np.mgrid[0:SIZE, 0:SIZE]
            for (px, py), colour in zip(points, COLOURS, strict=False):
                picture[(x - px) ** 2 + (y - py) ** 2 <= 49] = colour
            Image.fromarray(picture).save(folder / "images" / f"{number}.png")
            document["images"].append({"id": number, "file_name": f"{number}.png"})
            document["annotations"].append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [4, 4, SIZE - 8, SIZE - 8],
                    "keypoints": [value for px, py in points.tolist() for value in (px, py, 2)],
                }
            )
    path = folder / "annotations.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The COCO file."""
    return write_dots(tmp_path_factory.mktemp("dots"))


@pytest.fixture
def settings(dots: Path) -> Callable[..., Any]:
    """Makes the configuration of a tiny run; the model's fields go into `model`."""
    from cape.configuration import BackboneConfiguration, HeadConfiguration
    from cape.training.configuration import TrainingConfiguration

    def make(model: dict[str, Any] | None = None, **changes: Any) -> TrainingConfiguration:
        small: dict[str, Any] = {
            "backbone": BackboneConfiguration(
                image_size=64, embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, drop_path_rate=0.2
            ),
            "head": HeadConfiguration(
                width=32, heads=2, feedforward=32, gate_width=8, encoder_layers=1, decoder_layers=2, similarity_size=8
            ),
        }
        values: dict[str, Any] = {
            "model": tiny_configuration(**(small | (model or {}))),
            "sources": [{"data": {"kind": "coco", "annotations": str(dots), "skeleton_base": 0}}],
            "towers": {"train_image": False},
            "batch_size": 2,
            "schedule": {"kind": "cosine", "steps": 6, "warmup_steps": 2},
            "optimizer": {"learning_rate": 1e-3},
            "logging": {"every_steps": 1, "tensorboard": False},
        }
        return TrainingConfiguration.model_validate(values | changes)

    return make


class Quiet:
    """Listens to a run, and can end it or break it."""

    def __init__(self, stop_after: int | None = None, fail_after: int | None = None) -> None:
        self.notes: list[str] = []
        self.reports: list[Any] = []
        self._stop_after = stop_after
        self._fail_after = fail_after

    @property
    def reporting(self) -> Any:
        from cape.training.run import Reporting

        return Reporting(self.notes.append, lambda *_: None, self._trained, self._stopped)

    def _trained(self, report: Any) -> None:
        self.reports.append(report)
        if report.step == self._fail_after:
            raise InterruptedError

    def _stopped(self) -> bool:
        return bool(self.reports) and self.reports[-1].step == self._stop_after


@pytest.fixture
def quiet() -> type[Quiet]:
    return Quiet
