"""Features of a frozen backbone, computed once: every object in some augmented copies, on disk as float16.

A folder for each data set, named after a digest of all that its content depends on: another run that needs the
same features finds them. It is written in order, so that an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cape.data.crops import CroppedObject, Jitter, crop_object
from cape.data.dataset import DatasetError, KeypointDataset
from cape.data.episodes import Shot
from cape.models.system import System
from cape.training.encoders import Encoder

LAYOUT = 1
"""Changes with what the files mean."""

ENCODED_AT_ONCE = 16
PUBLISHED_EVERY = 16
"""Batches between two notes of how far the writing has come."""

StepProgress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""


@dataclass(frozen=True, slots=True)
class FeatureRecipe:
    """What cached features are made from.

    Attributes:
        source: what the configuration says of the data.
        copies: augmented copies of every object.
        jitter: their augmentation.
        size: side of the crops, in pixels.
        padding: side of a plain crop ÷ longer side of the box.
        seed: of the augmentation.
        backbone: digest of what encodes, from `backbone_digest`.
    """

    source: dict[str, Any]
    copies: int
    jitter: Jitter
    size: int
    padding: float
    seed: int
    backbone: str


def backbone_digest(system: System, blocks: int = 0) -> str:
    """SHA-256 over the backbone's configuration and weights, or those of so many first blocks."""
    digest = hashlib.sha256(system.configuration.backbone.model_dump_json().encode())
    state = system.image_backbone.state_dict()
    if blocks:
        digest.update(str(blocks).encode())
        first = [module.state_dict() for module in system.image_backbone.first_blocks(blocks)]
        state = {f"{number}.{key}": value for number, part in enumerate(first) for key, value in part.items()}
    for key, value in sorted(state.items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureCache:
    """Cached features of a data set; reading is random access to files in memory.

    Args:
        folder: as `build_feature_cache` writes it.
        dataset: what it was written from.
        copies: augmented copies of every object.

    Attributes:
        unusable: how many objects could not be read.
    """

    def __init__(self, folder: Path, dataset: KeypointDataset, copies: int) -> None:
        self._copies = copies
        self._counts = [len(category.keypoints) for category in dataset.categories]
        self._features = np.load(folder / "features.npy", mmap_mode="r")
        self._keypoints = np.load(folder / "keypoints.npy", mmap_mode="r")
        self._visible = np.load(folder / "visible.npy", mmap_mode="r")
        usable = np.load(folder / "usable.npy")
        self.unusable = int((~usable).sum()) // copies
        self._first_rows: list[list[int]] = []
        start = 0
        for category in range(len(dataset.categories)):
            stop = start + len(dataset.objects(category)) * copies
            self._first_rows.append([row for row in range(start, stop, copies) if usable[row]])
            start = stop

    def objects(self, category: int) -> int:
        """How many usable objects a category has."""
        return len(self._first_rows[category])

    def shot(self, category: int, number: int, generator: np.random.Generator) -> Shot:
        """One of the copies of an object, features float16 [C, F, F].

        Args:
            category: index of the category.
            number: which of its usable objects.
            generator: draws the copy.
        """
        row = self._first_rows[category][number] + int(generator.integers(self._copies))
        count = self._counts[category]
        return Shot(self._features[row], self._keypoints[row, :count], self._visible[row, :count])


def build_feature_cache(
    dataset: KeypointDataset,
    recipe: FeatureRecipe,
    encoders: Callable[[int], Encoder],
    root: Path,
    progress: StepProgress,
) -> FeatureCache:
    """Finds the features of a data set, or computes those that are missing.

    Args:
        dataset: the data.
        recipe: how.
        encoders: the backbone, for as many images as it is called with.
        root: folder of all caches.
        progress: is called with images done.
    """
    objects = [
        (category, object_id) for category in range(len(dataset.categories)) for object_id in dataset.objects(category)
    ]
    folder = _folder(dataset, recipe, root)
    _Writer(folder, dataset, recipe, objects).write(encoders, progress)
    return FeatureCache(folder, dataset, recipe.copies)


def _folder(dataset: KeypointDataset, recipe: FeatureRecipe, root: Path) -> Path:
    """Named after the data set and a digest."""
    about = {
        "layout": LAYOUT,
        "source": recipe.source,
        "copies": recipe.copies,
        "jitter": asdict(recipe.jitter),
        "size": recipe.size,
        "padding": recipe.padding,
        "seed": recipe.seed,
        "backbone": recipe.backbone,
        "categories": [[entry.name, [keypoint.name for keypoint in entry.keypoints]] for entry in dataset.categories],
        "objects": [list(dataset.objects(index)) for index in range(len(dataset.categories))],
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return root / f"{re.sub(r'[^A-Za-z0-9]+', '-', dataset.name).strip('-')}-{digest}"


class _Writer:
    """Fills the files of a cache from where they end."""

    def __init__(
        self, folder: Path, dataset: KeypointDataset, recipe: FeatureRecipe, objects: list[tuple[int, int]]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._dataset = dataset
        self._recipe = recipe
        self._objects = objects
        self._rows = len(objects) * recipe.copies
        note = folder / "done"
        self._done = int(note.read_text()) if note.is_file() else 0

    def write(self, encoders: Callable[[int], Encoder], progress: StepProgress) -> None:
        step = f"features of {self._dataset.name}"
        progress(step, self._done, self._rows)
        if self._done == self._rows:
            return
        encoder = encoders(self._rows - self._done)
        most = max(len(category.keypoints) for category in self._dataset.categories)
        keypoints = self._file("keypoints", np.float32, (self._rows, most, 2))
        visible = self._file("visible", np.bool_, (self._rows, most))
        usable = self._file("usable", np.bool_, (self._rows,))
        # A batch starts with an object's first copy: it is read once for all of them.
        width = max(1, ENCODED_AT_ONCE // self._recipe.copies) * self._recipe.copies
        starts = range(self._done, self._rows, width)
        features: np.memmap[Any, Any] | None = None
        with ThreadPoolExecutor(max_workers=1) as reader:
            # The next crops are read while the backbone works on these.
            ahead: Future[list[CroppedObject | None]] = reader.submit(self._crops, starts[0], width)
            for number, start in enumerate(starts):
                crops = ahead.result()
                if number + 1 < len(starts):
                    ahead = reader.submit(self._crops, starts[number + 1], width)
                size = self._recipe.size
                blank = np.zeros((size, size, 3), dtype=np.uint8)
                encoded = encoder(np.stack([blank if crop is None else crop.image for crop in crops]))
                if features is None:
                    features = self._file("features", np.float16, (self._rows, *encoded.shape[1:]))
                stop = start + len(crops)
                features[start:stop] = encoded
                for row, crop in enumerate(crops, start):
                    usable[row] = crop is not None
                    if crop is not None:
                        keypoints[row, : len(crop.keypoints)] = crop.keypoints
                        visible[row, : len(crop.visible)] = crop.visible
                progress(step, stop, self._rows)
                if stop == self._rows or number % PUBLISHED_EVERY == PUBLISHED_EVERY - 1:
                    for array in (features, keypoints, visible, usable):
                        array.flush()
                    self._publish(stop)

    def _crops(self, start: int, width: int) -> list[CroppedObject | None]:
        """Augmented crops of the objects of some rows; None for those of objects that cannot be read."""
        recipe = self._recipe
        crops: list[CroppedObject | None] = []
        for row in range(start, min(start + width, self._rows), recipe.copies):
            _, object_id = self._objects[row // recipe.copies]
            try:
                annotated = self._dataset.load(object_id)
            except DatasetError:
                crops.extend([None] * recipe.copies)
                continue
            for copy in range(recipe.copies):
                warp = recipe.jitter.draw(np.random.default_rng((recipe.seed, object_id, copy)))
                crops.append(crop_object(annotated, size=recipe.size, padding=recipe.padding, warp=warp))
        return crops

    def _file(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
        path = self._folder / f"{name}.npy"
        if self._done:
            return np.lib.format.open_memmap(path, mode="r+")
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)

    def _publish(self, done: int) -> None:
        partial = self._folder / ".done.partial"
        partial.write_text(str(done))
        partial.replace(self._folder / "done")
        self._done = done
