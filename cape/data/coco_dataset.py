"""Any COCO keypoint file as a data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cape.annotations import AnnotationError
from cape.coco import CocoFile, SkeletonBase, keypoint_definitions, read_coco
from cape.coco_entries import CocoAnnotation, CocoCategory, Id
from cape.data.dataset import AnnotatedObject, Category, DatasetError
from cape.images import ImageError, image_size, read_image

MISSING_NAMED = 5
"""Number of missing images that a note names."""

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
            self._outside: dict[int, tuple[int, int]] = {}
            self._images: dict[Id, str | None] = {}
            self._left_out: dict[int, str] = {}
            self._missing: list[str] = []
            self._boxes_outside: list[Id] = []
            # Ids that are texts are numbered behind those that are numbers.
            last = max((a.id for a in self._file.annotations if isinstance(a.id, int)), default=0)
            texts = [a.id for a in self._file.annotations if not isinstance(a.id, int)]
            self._numbers: dict[Id, int] = {text: last + 1 + index for index, text in enumerate(texts)}
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
            if self._missing:
                where = f"{len(self._missing)} images are missing, {self._missing[0]} for one"
                raise DatasetError(f"{path}: no object is left: {where}")
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
            raise DatasetError(self._left_out.get(object_id, f"{self.name}: there is no object {object_id}"))
        try:
            path = self._file.image_path(annotation.image_id)
            image = read_image(path)
            placed = self._file.place(annotation, image_size(path))
        except AnnotationError as error:
            raise DatasetError(str(error)) from None
        except ImageError as error:
            raise DatasetError(f"{path}: not a readable image: {str(error).removeprefix(f'{path}: ')}") from None
        assert placed.box is not None, "objects without a box are left out"
        self._outside[object_id] = (placed.moved, placed.hidden)
        return AnnotatedObject(image, placed.box, placed.keypoints, placed.visible)

    @property
    def notes(self) -> Sequence[str]:
        """What is not as the file says, a sentence each: missing images, and keypoints outside of objects read."""
        found = list(dict.fromkeys(self._file.notes))
        if self._missing:
            named = ", ".join(self._missing[:MISSING_NAMED])
            more = f" and {len(self._missing) - MISSING_NAMED} more" if len(self._missing) > MISSING_NAMED else ""
            found.append(f"{len(self._missing)} images are missing, their objects are left out: {named}{more}")
        if self._boxes_outside:
            found.append(
                f"{len(self._boxes_outside)} objects whose box lies outside are left out: "
                f"annotation {self._boxes_outside[0]} for one"
            )
        moved, hidden = (
            (sum(counts) for counts in zip(*self._outside.values(), strict=True)) if self._outside else (0, 0)
        )
        if moved:
            found.append(f"{moved} keypoints lie less than a pixel outside and were moved to the edge")
        if hidden:
            found.append(f"{hidden} keypoints lie outside their image and are hidden")
        return found

    def _problem(self, annotation: CocoAnnotation) -> str | None:
        """Why an object cannot be read, as far as that shows without reading its image."""
        image = annotation.image_id
        entry = self._file.images_by_id[image]
        if image not in self._images:
            try:
                self._file.image_path(image)
                self._images[image] = None
            except AnnotationError as error:
                self._images[image] = str(error)
                self._missing.append(entry.file_name)
        box = annotation.box
        if box and entry.width and entry.height:
            outside = box.x >= entry.width or box.y >= entry.height or box.x + box.width <= 0 or box.y + box.height <= 0
            if outside:
                self._boxes_outside.append(annotation.id)
                return f"{self._file.path}: annotation {annotation.id}: its box lies outside {entry.file_name}"
        return self._images[image]

    def _add(self, entry: CocoCategory, images: set[Id], skeleton_base: SkeletonBase) -> None:
        """Takes over a category with its objects, if it has any."""
        found = [
            annotation
            for annotation in self._file.keypoint_annotations(entry)
            if annotation.image_id in images and annotation.box is not None and not annotation.iscrowd
        ]
        numbers = []
        for annotation in found:
            number = annotation.id if isinstance(annotation.id, int) else self._numbers[annotation.id]
            if problem := self._problem(annotation):
                self._left_out[number] = problem
                continue
            if number in self._annotations:
                raise self._file.error(f"two annotations have the id {annotation.id}")
            self._annotations[number] = annotation
            numbers.append(number)
        if not numbers:
            return
        self._categories.append(
            Category(
                name=entry.name,
                super_category=entry.supercategory or entry.name,
                keypoints=keypoint_definitions(entry.keypoints),
                skeleton=self._file.skeleton(entry, skeleton_base),
            )
        )
        self._objects.append(numbers)


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
) -> set[Id]:
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
