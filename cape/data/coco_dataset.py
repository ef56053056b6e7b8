"""Any COCO keypoint file as a data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cape.annotations import AnnotationError
from cape.coco import CocoAnnotation, CocoCategory, CocoFile, SkeletonBase, read_coco
from cape.data.dataset import AnnotatedObject, Category, DatasetError
from cape.images import read_image
from cape.support import Box, KeypointDefinition

BORDER = 1.0
"""Pixels that a keypoint may lie outside its picture and still be meant to lie on its edge: annotators round."""

ANNOTATIONS_FILE = "annotations.json"

GENERIC_NAMES = ("annotations", "coco", "labels")
"""Names of files that say nothing: their folder's name says more."""


class CocoDataset:
    """The objects of a COCO keypoint file that have a box and a labelled keypoint. A `KeypointDataset`.

    Labelled but occluded keypoints (visibility 1) count as visible, as in MP-100's published code. A category
    without objects is left out.

    Args:
        annotations: the JSON file, or a folder in which it is called annotations.json.
        images: folder of its images; None for the file's own folder or `images` in it.
        split: take only images whose field `split` says so; None for all.
        categories: names of the categories to take; none for all.
        one_object_per_image: take only images that show a single object: one annotation in all among these
            categories, unlabelled objects and crowds counted too.
        skeleton_base: index of the first keypoint in the skeletons of the file.

    Raises:
        DatasetError: the file cannot be read, a field is wrong, or nothing is left of it.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str] | None = None,
        *,
        split: str | None = None,
        categories: Sequence[str] = (),
        one_object_per_image: bool = False,
        skeleton_base: SkeletonBase = "detect",
    ) -> None:
        path = Path(annotations)
        if path.is_dir():
            path /= ANNOTATIONS_FILE
        try:
            self._file = read_coco(path, images)
            self._annotations: dict[int, CocoAnnotation] = {}
            self._categories: list[Category] = []
            self._objects: list[list[int]] = []
            chosen = _chosen_categories(self._file, categories)
            usable_images = _usable_images(self._file, chosen, split, one_object_per_image)
            for entry in chosen:
                self._add(entry, usable_images, skeleton_base)
        except AnnotationError as error:
            raise DatasetError(str(error)) from None
        empty = {entry.name for entry in chosen} - {category.name for category in self._categories}
        if not self._categories or (categories and empty):
            missing = ", ".join(repr(name) for name in sorted(empty)) or "any category"
            part = f" in split {split!r}" if split is not None else ""
            raise DatasetError(f"{path}: there are no labelled objects of {missing}{part}")
        called = path.resolve().parent.name if path.stem in GENERIC_NAMES else path.stem
        self._name = f"{called}{f' ({split})' if split else ''}"

    @property
    def name(self) -> str:
        """The file and the split: "person_keypoints_val2017", or "real_poses (test)" for its annotations.json."""
        return self._name

    @property
    def categories(self) -> Sequence[Category]:
        """The categories, in the order of the file."""
        return self._categories

    def objects(self, category: int) -> Sequence[int]:
        """Ids of a category's annotations, in the order of the file."""
        return self._objects[category]

    def load(self, object_id: int) -> AnnotatedObject:
        """Reads an object; its id is that of its annotation.

        A keypoint outside the picture is hidden; one that is less than a pixel outside is moved to the edge.

        Raises:
            DatasetError: there is no such object, its image is missing or cannot be read, or its box is outside.
        """
        annotation = self._annotations.get(object_id)
        if annotation is None:
            raise DatasetError(f"{self.name}: there is no object {object_id}")
        try:
            path = self._file.image_path(annotation.image_id)
        except AnnotationError as error:
            raise DatasetError(str(error)) from None
        try:
            image = read_image(path)
        except OSError as error:
            raise DatasetError(f"{path}: not a readable image: {error}") from None
        height, width = image.shape[:2]
        box = clipped(annotation.box, width, height)
        if box is None:
            raise DatasetError(
                f"{self._file.path}: annotation {object_id}: its box {annotation.bbox} lies outside {path.name},"
                f" which is {width} × {height} pixels"
            )
        keypoints, visible = keypoints_inside(annotation.points, width, height)
        return AnnotatedObject(image, box, keypoints, visible)

    def _add(self, entry: CocoCategory, images: set[int], skeleton_base: SkeletonBase) -> None:
        """Takes over a category with its objects, if it has any."""
        found = [
            annotation
            for annotation in self._file.keypoint_annotations(entry)
            if annotation.image_id in images and annotation.box is not None and not annotation.iscrowd
        ]
        if not found:
            return
        for annotation in found:
            if annotation.id in self._annotations:
                raise self._file.error(f"two annotations have the id {annotation.id}")
            self._annotations[annotation.id] = annotation
        self._categories.append(
            Category(
                name=entry.name,
                super_category=entry.supercategory or entry.name,
                keypoints=keypoint_definitions(entry.keypoints),
                skeleton=self._file.skeleton(entry, skeleton_base),
            )
        )
        self._objects.append([annotation.id for annotation in found])


def keypoint_definitions(names: Iterable[str]) -> tuple[KeypointDefinition, ...]:
    """Definitions with unique names: where a name comes again it gets a number, and keeps its text."""
    seen: Counter[str] = Counter()
    definitions = []
    for name in names:
        seen[name] += 1
        again = seen[name] > 1
        definitions.append(KeypointDefinition(f"{name} ({seen[name]})", name) if again else KeypointDefinition(name))
    return tuple(definitions)


def clipped(box: Box | None, width: int, height: int) -> Box | None:
    """The part of a box that lies in a picture of `width` × `height` pixels; None if nothing does."""
    if box is None:
        return None
    left, top = max(0.0, box.x), max(0.0, box.y)
    right, bottom = min(float(width), box.x + box.width), min(float(height), box.y + box.height)
    return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None


def keypoints_inside(
    points: Sequence[tuple[float, float] | None], width: int, height: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Points as arrays, float32 [K, 2] and visible, bool [K]; those outside the picture are hidden."""
    keypoints = np.array([point or (0.0, 0.0) for point in points], dtype=np.float32).reshape(-1, 2)
    visible = np.array([point is not None for point in points], dtype=np.bool_)
    size = np.array([width, height], dtype=np.float32)
    visible &= ((keypoints >= -BORDER) & (keypoints <= size + BORDER)).all(axis=1)
    return np.clip(keypoints, 0, size), visible


def _chosen_categories(file: CocoFile, names: Sequence[str]) -> list[CocoCategory]:
    usable = file.usable_categories
    known = [category.name for category in usable]
    for name in names:
        if name not in known:
            listed = ", ".join(repr(other) for other in known) or "none with keypoints"
            raise file.error(f"there is no category {name!r}; the file has {listed}")
    return [category for category in usable if not names or category.name in names]


def _usable_images(
    file: CocoFile, categories: Sequence[CocoCategory], split: str | None, one_object_per_image: bool
) -> set[int]:
    """Ids of the images that may be used."""
    images = {image.id for image in file.images if split is None or image.split == split}
    if split is not None and not images:
        splits = sorted({image.split for image in file.images if image.split is not None})
        raise file.error(f"no image is in split {split!r}; splits: {', '.join(splits) or 'none'}")
    if one_object_per_image:
        wanted = {category.id for category in categories}
        objects = Counter(entry.image_id for entry in file.annotations if entry.category_id in wanted)
        images = {image for image in images if objects[image] == 1}
    return images
