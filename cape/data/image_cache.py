"""Drawn images in a memory-mapped file, so that processes draw each one once and share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cape.data.dataset import AnnotatedObject, Category, KeypointDataset
from cape.support import Box


class ImageCache:
    """A data set whose images are all of one size, each read once. A `KeypointDataset`.

    The file is sparse: it takes space as images are added. Processes may write at the same time: an object is the
    same pixels whoever reads it, and its mark is set after them.

    Args:
        dataset: the data; object ids count from 0 without gaps.
        folder: for the files, which another run with the same data continues.
        identity: what the pixels depend on besides the data set's name and categories.
    """

    def __init__(self, dataset: KeypointDataset, folder: Path, identity: object = None) -> None:
        self._dataset = dataset
        self._count = sum(len(dataset.objects(index)) for index in range(len(dataset.categories)))
        self._keypoints = [len(category.keypoints) for category in dataset.categories]
        self._per_category = len(dataset.objects(0))
        first = dataset.load(dataset.objects(0)[0])
        self._shape = first.image.shape
        names = [[category.name, category.texts] for category in dataset.categories]
        about = json.dumps([dataset.name, names, self._count, self._shape, identity], default=str)
        digest = hashlib.sha256(about.encode()).hexdigest()[:16]
        self._folder = folder / f"images-{digest}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open()

    @property
    def name(self) -> str:
        """The data set's own."""
        return self._dataset.name

    @property
    def categories(self) -> Sequence[Category]:
        """The data set's own."""
        return self._dataset.categories

    def objects(self, category: int) -> Sequence[int]:
        """The data set's own."""
        return self._dataset.objects(category)

    def load(self, object_id: int) -> AnnotatedObject:
        """Reads an object, from the file where it is in it.

        Raises:
            DatasetError: it cannot be read.
        """
        if self._present[object_id]:
            count = self._keypoints[object_id // self._per_category]
            labels = self._labels[object_id]
            points = labels[4 : 4 + 3 * count].reshape(count, 3)
            box = Box(*labels[:4].tolist())
            # A copy: the map belongs to all processes.
            return AnnotatedObject(np.array(self._images[object_id]), box, points[:, :2].copy(), points[:, 2] > 0)
        annotated = self._dataset.load(object_id)
        labels = np.zeros(self._labels.shape[1], dtype=np.float32)
        labels[:4] = (annotated.box.x, annotated.box.y, annotated.box.width, annotated.box.height)
        values = np.column_stack((annotated.keypoints, annotated.visible)).ravel()
        labels[4 : 4 + len(values)] = values
        self._images[object_id] = annotated.image
        self._labels[object_id] = labels
        self._present[object_id] = 1
        return annotated

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the files itself."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_images", "_labels", "_present")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        width = 4 + 3 * max(self._keypoints)
        self._images = self._map("images", np.uint8, (self._count, *self._shape))
        self._labels = self._map("labels", np.float32, (self._count, width))
        self._present = self._map("present", np.uint8, (self._count,))

    def _map(self, name: str, kind: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        path = self._folder / f"{name}.bin"
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        with path.open("ab") as file:
            # Grows a new file and leaves a full one alone.
            file.truncate(size)
        return np.memmap(path, dtype=kind, mode="r+", shape=shape)
