"""Images of several megapixels, and an estimator that receives them as JPEGs.

The service decodes a large JPEG at 1/2, 1/4 or 1/8 of its size if the crops need no more. Decoding the same files both
ways shows what that costs in accuracy.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.harness.engine_choices import EngineChoice
from benchmarks.harness.exported import LIMITS, ExportedEstimator
from cape.client.messages import image_message
from cape.data.dataset import AnnotatedObject, Category, KeypointDataset
from cape.evaluation.estimator import QueryObject
from cape.geometry import Crop
from cape.support import Box
from service.images.reading import open_image

GRAIN = 6.0
"""Standard deviation of the noise added to enlarged images, in grey levels, as of a sensor at dusk. Without it they
would hold no detail beyond the original's, and reduced decoding could lose nothing."""

TILE = 512
"""Side of the noise tile. Drawing millions of new values would take longer than everything else."""

QUALITY = 90
"""JPEG quality."""


class EnlargedDataset:
    """A `KeypointDataset` whose images are enlarged to camera size, with sensor noise.

    Args:
        dataset: the original.
        megapixels: target size of an image, in millions of pixels; larger images stay as they are.
    """

    def __init__(self, dataset: KeypointDataset, megapixels: float) -> None:
        self._dataset = dataset
        self._pixels = megapixels * 1e6

    @property
    def name(self) -> str:
        """Name of the data set, and the size."""
        return f"{self._dataset.name}, {self._pixels / 1e6:g} megapixels"

    @property
    def categories(self) -> Sequence[Category]:
        """The data set's."""
        return self._dataset.categories

    def objects(self, category: int) -> Sequence[int]:
        """The data set's."""
        return self._dataset.objects(category)

    def load(self, object_id: int) -> AnnotatedObject:
        """Reads and enlarges one object.

        Raises:
            DatasetError: as the data set.
        """
        found = self._dataset.load(object_id)
        height, width = found.image.shape[:2]
        scale = max(1.0, (self._pixels / (height * width)) ** 0.5)
        size = (round(width * scale), round(height * scale))
        image = np.asarray(cv2.resize(found.image, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        if scale > 1:
            image = _with_grain(image, object_id)
        # A pixel's centre maps to the centre of the block that it became.
        shift = (scale - 1) / 2
        box = found.box
        box = Box(scale * box.x + shift, scale * box.y + shift, scale * box.width, scale * box.height)
        return AnnotatedObject(image, box, found.keypoints * scale + np.float32(shift), found.visible)


def _with_grain(image: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """Adds noise: one tile, repeated from a different offset in each image."""
    top, left = np.random.default_rng(seed).integers(0, TILE, 2).tolist()
    repeats = (-(-image.shape[0] // TILE) + 1, -(-image.shape[1] // TILE) + 1, 1)
    grain = np.tile(_grain(), repeats)[top : top + image.shape[0], left : left + image.shape[1]]
    return np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U), dtype=np.uint8)


@functools.cache
def _grain() -> npt.NDArray[np.int16]:
    noise = GRAIN * np.random.default_rng(0).standard_normal((TILE, TILE, 3))
    return noise.round().astype(np.int16)


class JpegEstimator(ExportedEstimator):
    """An exported repository that receives queries as JPEGs and decodes them as the service does.

    Args:
        repository, choice: as for `ExportedEstimator`.
        reduced: decode at the scale that the crop needs, as the service does; False for full size.
    """

    def __init__(self, repository: Path, choice: EngineChoice, *, reduced: bool) -> None:
        super().__init__(repository, choice=choice)
        self._reduced = reduced

    def _pixels(self, query: QueryObject, crop: Crop) -> npt.NDArray[np.uint8]:
        buffer = io.BytesIO()
        Image.fromarray(query.image).save(buffer, "JPEG", quality=QUALITY)
        opened = open_image(image_message(buffer.getvalue()), LIMITS)
        return opened.decode([crop] if self._reduced else []).extract(crop)
