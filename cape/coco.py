"""Reads supports and boxes from COCO keypoint files. `cape.data.coco_dataset` reads them as data sets.

COCO's own skeletons count keypoints from 1, those of MP-100 and others from 0. The reader detects which.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError

from cape.annotations import AnnotationError, annotation_error, parse_file
from cape.coco_entries import BORDER, CocoAnnotation, CocoCategory, CocoImage, Id, Placement
from cape.images import ImageError, ImageSize, image_size, turn_points
from cape.support import Box, KeypointDefinition, SupportDefinition, SupportExample

UNKNOWN_SIDE = 1_000_000
"""Placeholder for the size of an unreadable image: no annotation lies outside it."""

SkeletonBase = Literal["detect", 0, 1]
"""The index of the first keypoint in the skeletons of a file."""


class CocoFile(BaseModel):
    """A COCO keypoint file; `read_coco` reads one."""

    categories: list[CocoCategory]
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    path: Path = Field(default=Path(), exclude=True)
    notes: list[str] = Field(default=[], exclude=True, description="Changes that were made while reading.")
    image_folder: Path | None = Field(default=None, exclude=True)

    def support(
        self,
        category: str | None = None,
        *,
        shots: int = 1,
        image_ids: Sequence[Id] = (),
        annotation_ids: Sequence[Id] = (),
        skeleton_base: SkeletonBase = "detect",
    ) -> SupportDefinition:
        """Makes a support from a category and some of its annotations.

        Args:
            category: its name; None if the file has only one with keypoints.
            shots: number of annotations to take, those with the most labelled keypoints first; ignored with ids.
            image_ids: take the best labelled annotation of each of these images.
            annotation_ids: take exactly these annotations.
            skeleton_base: index of the first keypoint in skeletons.

        Raises:
            AnnotationError: naming the file and what is missing or wrong in it.
        """
        chosen = self._category(category)
        skeleton = self.skeleton(chosen, skeleton_base)
        annotations = self._choose(chosen, shots, image_ids, annotation_ids)
        return SupportDefinition(
            category=chosen.name,
            keypoints=keypoint_definitions(chosen.keypoints),
            skeleton=skeleton,
            examples=tuple(self._example(annotation) for annotation in annotations),
        )

    def _example(self, annotation: CocoAnnotation) -> SupportExample:
        path = self.image_path(annotation.image_id)
        entry = self.images_by_id[annotation.image_id]
        try:
            size = image_size(path)
        except ImageError:
            # The error is reported when the pixels are read.
            size = ImageSize(int(entry.width or UNKNOWN_SIDE), int(entry.height or UNKNOWN_SIDE))
        placed = self.place(annotation, size)
        name = entry.file_name
        if placed.moved:
            self.notes.append(f"annotation {annotation.id}: {placed.moved} keypoints moved to the edge of {name}")
        if placed.hidden:
            self.notes.append(f"annotation {annotation.id}: {placed.hidden} keypoints outside {name} are hidden")
        if not placed.visible.any():
            raise self.error(f"annotation {annotation.id}: no keypoint lies inside {name}")
        return SupportExample(image=path, keypoints=placed.keypoints, visible=placed.visible, box=placed.box)

    def place(self, annotation: CocoAnnotation, size: ImageSize) -> Placement:
        """Converts an annotation to pixels of its upright image at its actual size.

        Args:
            annotation: one of this file.
            size: size of its image.

        Raises:
            AnnotationError: the box lies outside the image, or the image does not match the entry.
        """
        entry = self.images_by_id[annotation.image_id]
        points = np.array([point or (0.0, 0.0) for point in annotation.points], dtype=np.float32).reshape(-1, 2)
        visible = np.array([point is not None for point in annotation.points], dtype=np.bool_)
        box = annotation.box
        corners = np.array([[box.x, box.y], [box.x + box.width, box.y + box.height]] if box else [], dtype=np.float32)
        corners = corners.reshape(-1, 2)
        factor, turned = self._relation(entry, size, annotation)
        if turned:
            # Scale to the stored image first, because the entry's size refers to it.
            points, corners = turn_points(points * factor, size), turn_points(corners * factor, size)
        else:
            points, corners = points * factor, corners * factor
        limits = np.array([size.width, size.height], dtype=np.float32)
        outside = visible & ((points < 0) | (points > limits)).any(axis=1)
        far = visible & ((points < -BORDER) | (points > limits + BORDER)).any(axis=1)
        if box is not None:
            (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
            left, top = max(0.0, float(left)), max(0.0, float(top))
            right, bottom = min(float(size.width), float(right)), min(float(size.height), float(bottom))
            if right <= left or bottom <= top:
                raise self.error(
                    f"annotation {annotation.id}: its box {annotation.bbox} lies outside {entry.file_name}, which is"
                    f" {size.width} × {size.height} pixels"
                )
            box = Box(left, top, right - left, bottom - top)
        moved, hidden = int((outside & ~far).sum()), int(far.sum())
        return Placement(box, np.clip(points, 0, limits), visible & ~far, moved, hidden)

    def _relation(
        self, entry: CocoImage, size: ImageSize, annotation: CocoAnnotation
    ) -> tuple[npt.NDArray[np.float32], bool]:
        """Scale factors of x and y from the entry to the image, and whether the entry describes the stored image."""
        if not entry.width or not entry.height:
            return np.ones(2, dtype=np.float32), False
        for turned, (width, height) in ((False, (size.width, size.height)), (True, size.stored)):
            if (entry.width, entry.height) == (width, height):
                return np.ones(2, dtype=np.float32), turned
        for turned, (width, height) in ((False, (size.width, size.height)), (True, size.stored)):
            large, small = (entry.width, entry.height), (width, height)
            if width > entry.width:
                large, small = small, large
            times = round(large[0] / small[0])
            # Halving an odd side rounds by less than one pixel of the smaller image.
            if times > 1 and all(abs(a - times * b) < times for a, b in zip(large, small, strict=True)):
                return np.array([width / entry.width, height / entry.height], dtype=np.float32), turned
        raise self.error(
            f"annotation {annotation.id}: image {entry.file_name} is {size.width} × {size.height} pixels, but the file"
            f" says {entry.width:g} × {entry.height:g}: not the image that was annotated"
        )

    def boxes(self, category: str | None = None) -> dict[Path, list[Box]]:
        """Returns the boxes of a category by image, for estimating on annotated images.

        Raises:
            AnnotationError: the category does not exist, or an image is missing.
        """
        chosen = self._category(category)
        found: dict[Path, list[Box]] = {}
        for annotation in self.annotations:
            if annotation.category_id == chosen.id and annotation.box is not None:
                found.setdefault(self.image_path(annotation.image_id), []).append(annotation.box)
        return found

    @property
    def usable_categories(self) -> list[CocoCategory]:
        """Categories with keypoints, in the order of the file."""
        return [category for category in self.categories if category.keypoints]

    def skeleton(self, category: CocoCategory, base: SkeletonBase = "detect") -> tuple[tuple[int, int], ...]:
        """Returns a category's edges as indices from 0.

        Args:
            category: one of this file.
            base: index of the first keypoint in the skeletons of the file.

        Raises:
            AnnotationError: an edge joins a keypoint that does not exist, or the base cannot be detected.
        """
        first = self._skeleton_base() if base == "detect" else base
        skeleton = tuple((start - first, end - first) for start, end in category.skeleton)
        for edge, (start, end) in zip(category.skeleton, skeleton, strict=True):
            if not (0 <= start < len(category.keypoints) and 0 <= end < len(category.keypoints)):
                raise self.error(f"category {category.name!r}: skeleton edge {list(edge)} joins a keypoint not there")
        loops = sum(start == end for start, end in skeleton)
        if loops:
            self.notes.append(f"category {category.name!r}: {loops} edges from a keypoint to itself are dropped")
        return tuple((start, end) for start, end in skeleton if start != end)

    def keypoint_annotations(self, category: CocoCategory) -> list[CocoAnnotation]:
        """Returns the annotations of a category that have a labelled keypoint, in the order of the file.

        Raises:
            AnnotationError: an annotation does not have three numbers for each keypoint.
        """
        found = [annotation for annotation in self._by_category.get(category.id, ()) if annotation.keypoints]
        for annotation in found:
            if len(annotation.keypoints) != 3 * len(category.keypoints):
                image = self.images_by_id.get(annotation.image_id)
                raise self.error(
                    f"annotation {annotation.id}: {len(annotation.keypoints)} numbers, three for each of"
                    f" {len(category.keypoints)} keypoints are needed (image"
                    f" {image.file_name if image else annotation.image_id})"
                )
        return [annotation for annotation in found if annotation.labelled]

    def image_path(self, image_id: Id) -> Path:
        """Returns the path of an image.

        Raises:
            AnnotationError: the image does not exist, or its file is missing.
        """
        image = self.images_by_id.get(image_id)
        if image is None:
            raise self.error(f"there is no image {image_id}")
        parent = self.path.parent
        folders = [parent, parent / "images", parent.parent / "images"]
        if self.image_folder:
            folders = [self.image_folder]
        # Windows tools write backslashes; some exporters write absolute paths of their own machine.
        slashed = image.file_name.replace("\\", "/")
        names = dict.fromkeys((image.file_name, slashed, slashed.rsplit("/", 1)[-1]))
        for name in names:
            for folder in folders:
                if name and (folder / name).is_file():
                    return folder / name
        raise self.error(f"image {image.file_name} is not in {' or '.join(str(folder) for folder in folders)}")

    def error(self, message: str) -> AnnotationError:
        """Makes an error that names this file."""
        return AnnotationError(f"{self.path}: {message}")

    @cached_property
    def images_by_id(self) -> dict[Id, CocoImage]:
        """Images by id."""
        return {image.id: image for image in self.images}

    @cached_property
    def _by_category(self) -> dict[Id, list[CocoAnnotation]]:
        found: dict[Id, list[CocoAnnotation]] = {}
        for annotation in self.annotations:
            found.setdefault(annotation.category_id, []).append(annotation)
        return found

    def _category(self, name: str | None) -> CocoCategory:
        usable = self.usable_categories
        matching = [category for category in usable if name in (None, category.name)]
        if len(matching) != 1:
            names = ", ".join(repr(category.name) for category in usable) or "none with keypoints"
            wanted = "name one category" if name is None else f"there is no category {name!r}"
            raise self.error(f"{wanted}; the file has {names}")
        return matching[0]

    def _choose(
        self, category: CocoCategory, shots: int, image_ids: Sequence[Id], annotation_ids: Sequence[Id]
    ) -> list[CocoAnnotation]:
        candidates = sorted(self.keypoint_annotations(category), key=lambda found: -found.labelled)
        chosen = candidates[:shots]
        if annotation_ids:
            by_id = {found.id: found for found in candidates}
            chosen = [by_id[wanted] for wanted in annotation_ids if wanted in by_id]
        elif image_ids:
            by_image = {found.image_id: found for found in reversed(candidates)}
            chosen = [by_image[wanted] for wanted in image_ids if wanted in by_image]
        wanted = len(annotation_ids) or len(image_ids) or shots
        if len(chosen) < wanted:
            raise self.error(f"category {category.name!r}: {len(chosen)} of {wanted} annotations with keypoints found")
        return chosen

    def _skeleton_base(self) -> int:
        """Detects the base from all skeletons: index 0 occurs only with base 0, index K only with base 1."""
        from_zero = any(0 in edge for category in self.categories for edge in category.skeleton)
        from_one = any(len(category.keypoints) in edge for category in self.categories for edge in category.skeleton)
        if from_zero and from_one:
            raise self.error("skeletons hold both index 0 and an index equal to the number of keypoints")
        if not from_zero and not from_one and any(category.skeleton for category in self.categories):
            raise self.error(
                "skeletons may count from 0 or from 1; say which: --skeleton-base 0 or 1 (data.skeleton_base)"
            )
        return 1 if from_one else 0


def read_coco(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> CocoFile:
    """Reads a COCO keypoint file.

    Args:
        path: the JSON file.
        images: folder of its images; None for the file's folder or its subfolder `images`.

    Raises:
        AnnotationError: it cannot be read, or a field is missing or wrong.
    """
    path = Path(path)
    try:
        file = CocoFile.model_validate(parse_file(path))
    except ValidationError as error:
        raise annotation_error(path, error) from None
    if not file.annotations or any(annotation.id == -1 for annotation in file.annotations):
        numbered = [
            annotation if annotation.id != -1 else annotation.model_copy(update={"id": index})
            for index, annotation in enumerate(file.annotations, start=1)
        ]
        file = file.model_copy(update={"annotations": numbered})
    _name_keypoints(file)
    return file.model_copy(update={"path": path, "notes": [], "image_folder": None if images is None else Path(images)})


def keypoint_definitions(names: Iterable[str]) -> tuple[KeypointDefinition, ...]:
    """Makes names unique: a repeated name gets a number and keeps its text."""
    seen: Counter[str] = Counter()
    definitions = []
    for name in names:
        seen[name] += 1
        again = seen[name] > 1
        definitions.append(KeypointDefinition(f"{name} ({seen[name]})", name) if again else KeypointDefinition(name))
    return tuple(definitions)


def _name_keypoints(file: CocoFile) -> None:
    """Generates names for a category without names, one per keypoint of its objects."""
    for category in file.categories:
        if not category.keypoints:
            counts = {len(a.keypoints) for a in file.annotations if a.category_id == category.id and a.keypoints}
            if len(counts) == 1 and (count := counts.pop()) % 3 == 0:
                category.keypoints = [""] * (count // 3)
        category.keypoints = [name.strip() or f"keypoint {n}" for n, name in enumerate(category.keypoints, start=1)]
