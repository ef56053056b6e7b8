"""MP-100 as it is published: COCO-style JSON, one file for each split and part, and a folder of images.

The images come from the user, gathered from a dozen data sets whose copies differ in small ways: an image that is
missing, or that lies under a slightly different name, is reported and not fatal, as in the published loaders.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cape.annotations import AnnotationError
from cape.coco import CocoFile, keypoint_definitions, read_coco
from cape.coco_entries import CocoAnnotation, CocoCategory, Id
from cape.data.dataset import AnnotatedObject, Category, DatasetError
from cape.images import read_image
from cape.support import Box

Part = Literal["train", "val", "test"]

FOLDS = range(1, 6)

MISSING_NAMED = 5
"""How many missing images a report names."""


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What is not as the annotations say, in the images of one file.

    Attributes:
        missing: file names of images that are not there; their objects are left out.
        renamed: file name in the annotations → the file that was taken instead.
    """

    missing: tuple[str, ...]
    renamed: dict[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each kind of discrepancy."""
        notes = []
        if self.missing:
            named = ", ".join(self.missing[:MISSING_NAMED])
            more = f" and {len(self.missing) - MISSING_NAMED} more" if len(self.missing) > MISSING_NAMED else ""
            notes.append(f"{len(self.missing)} images are missing, their objects are left out: {named}{more}")
        if self.renamed:
            name, taken = next(iter(self.renamed.items()))
            notes.append(f"{len(self.renamed)} images lie under another name, such as {taken} for {name}")
        return tuple(notes)


class Mp100Dataset:
    """One part of one split of MP-100. A `KeypointDataset`.

    Objects are those of the published loader, in its order: image by image, with a box that has an area within the
    picture and at least one labelled keypoint, crowds left out. Boxes are cleaned as there.

    Args:
        annotations: folder of the files `mp100_split{fold}_{split}.json`.
        images: folder of the images.
        fold: 1–5, which of the five splits.
        split: 'train', 'val' or 'test'.

    Attributes:
        report: missing and renamed images.

    Raises:
        DatasetError: the file is missing or wrong, or none of its images is there.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        fold: int = 1,
        split: Part = "test",
    ) -> None:
        if fold not in FOLDS:
            raise DatasetError(f"fold: 1 to 5, not {fold}")
        self._path = Path(annotations) / f"mp100_split{fold}_{split}.json"
        self._name = f"MP-100 split {fold} ({split})"
        try:
            file = read_coco(self._path, images)
        except AnnotationError as error:
            raise DatasetError(str(error)) from None
        used = {annotation.image_id for annotation in file.annotations}
        self._images, self.report = _find_images(file, Path(images), used)
        entries = {entry.id: index for index, entry in enumerate(file.categories)}
        self._categories = tuple(_category(entry) for entry in file.categories)
        self._objects: list[list[int]] = [[] for _ in file.categories]
        self._annotations: dict[int, CocoAnnotation] = {}
        by_image: dict[Id, list[CocoAnnotation]] = {}
        for annotation in file.annotations:
            by_image.setdefault(annotation.image_id, []).append(annotation)
        for image in file.images:
            if image.id not in self._images:
                continue
            for annotation in by_image.get(image.id, []):
                if annotation.category_id in entries and self._usable(annotation, file, entries):
                    assert isinstance(annotation.id, int), "MP-100 numbers its annotations"
                    self._annotations[annotation.id] = annotation
                    self._objects[entries[annotation.category_id]].append(annotation.id)
        if not self._annotations:
            raise DatasetError(f"{self._path}: none of its objects has an image in {images}")

    @property
    def name(self) -> str:
        """What tables call it: "MP-100 split 1 (test)"."""
        return self._name

    @property
    def notes(self) -> Sequence[str]:
        """Missing and renamed images, a sentence each."""
        return self.report.notes

    @property
    def categories(self) -> Sequence[Category]:
        """The categories, in the order of the file."""
        return self._categories

    def objects(self, category: int) -> Sequence[int]:
        """Ids of a category's annotations, in the order of the published loader."""
        return self._objects[category]

    def load(self, object_id: int) -> AnnotatedObject:
        """Reads an object; its id is that of its annotation.

        Raises:
            DatasetError: there is no such object, its image cannot be read, or its box lies outside.
        """
        annotation = self._annotations.get(object_id)
        if annotation is None:
            raise DatasetError(f"{self.name}: there is no object {object_id}")
        path = self._images[annotation.image_id]
        try:
            image = read_image(path)
        except OSError as error:
            raise DatasetError(f"{path}: not a readable image: {error}") from None
        height, width = image.shape[:2]
        box = cleaned_box(annotation.box, width, height)
        if box is None:
            raise DatasetError(f"{self._path}: annotation {object_id}: its box lies outside {path.name}")
        points = annotation.points
        keypoints = np.array([point or (0.0, 0.0) for point in points], dtype=np.float32).reshape(-1, 2)
        # Some objects have keypoints outside their image; the published loader clips.
        keypoints = np.clip(keypoints, 0, np.array([width, height], dtype=np.float32))
        return AnnotatedObject(image, box, keypoints, np.array([point is not None for point in points], dtype=np.bool_))

    def _usable(self, annotation: CocoAnnotation, file: CocoFile, entries: dict[Id, int]) -> bool:
        count = len(self._categories[entries[annotation.category_id]].keypoints)
        if annotation.keypoints and len(annotation.keypoints) != 3 * count:
            raise DatasetError(
                f"{self._path}: annotation {annotation.id}: {len(annotation.keypoints)} numbers, three for each of"
                f" {count} keypoints are needed"
            )
        if annotation.id in self._annotations:
            raise DatasetError(f"{self._path}: two annotations have the id {annotation.id}")
        # The published loader skips objects by these fields where the file has them.
        empty = annotation.num_keypoints == 0 or (annotation.area is not None and annotation.area <= 0)
        return not annotation.iscrowd and not empty and annotation.box is not None and annotation.labelled > 0


def cleaned_box(box: Box | None, width: int, height: int) -> Box | None:
    """A box as the published loader cleans it: within the picture, a pixel shorter; None if nothing is left.

    Args:
        box: in pixels; None for none.
        width, height: of the picture.
    """
    if box is None:
        return None
    left, top = max(0.0, box.x), max(0.0, box.y)
    right = min(width - 1.0, left + max(0.0, box.width - 1))
    bottom = min(height - 1.0, top + max(0.0, box.height - 1))
    return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None


def _category(entry: CocoCategory) -> Category:
    """MP-100's skeletons count from 0; pairs that name no keypoint are dropped."""
    count = len(entry.keypoints)
    edges = tuple((a, b) for a, b in entry.skeleton if 0 <= a < count and 0 <= b < count)
    return Category(
        name=entry.name,
        super_category=entry.supercategory or entry.name,
        keypoints=keypoint_definitions(name.replace("_", " ") for name in entry.keypoints),
        skeleton=edges,
    )


def _find_images(file: CocoFile, folder: Path, used: set[Id]) -> tuple[dict[Id, Path], ImageReport]:
    """Where each image that is used lies, by its id.

    Copies of the source data sets differ in case (`.JPG` for `.jpg`), in blanks for underscores, and in folders
    that they put around an image: what is left of a name without these decides, where only one file has it.
    """
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    plain = Counter(_plain(name) for name in there)
    by_plain = {_plain(name): path for name, path in there.items()}
    found: dict[Id, Path] = {}
    missing, renamed = [], {}
    for image in file.images:
        if image.id not in used:
            continue
        exact, key = there.get(image.file_name.replace("\\", "/")), _plain(image.file_name.replace("\\", "/"))
        if exact is not None:
            found[image.id] = exact
        elif plain[key] == 1:
            found[image.id] = by_plain[key]
            renamed[image.file_name] = by_plain[key].relative_to(folder).as_posix()
        else:
            missing.append(image.file_name)
    return found, ImageReport(tuple(missing), renamed)


def _plain(name: str) -> str:
    """A file name without what copies differ in: letter case, blanks, the kind of JPEG ending, a leading folder."""
    parts = name.lower().replace(" ", "_").rsplit("/", 2)
    stem, _, ending = parts[-1].rpartition(".")
    category = parts[-2] if len(parts) > 1 else ""
    return f"{category}/{stem}.{'jpg' if ending == 'jpeg' else ending}"
