"""COCO keypoint files as supports, and as boxes to look into; `cape.data.coco_dataset` reads them as data sets.

COCO's own skeletons count keypoints from 1, those of MP-100 and others from 0; which it is shows in the file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from cape.annotations import AnnotationError, annotation_error, parse_file, support_example
from cape.support import Box, KeypointDefinition, SupportDefinition

SkeletonBase = Literal["detect", 0, 1]
"""The index of the first keypoint in the skeletons of a file."""


class CocoCategory(BaseModel):
    """An entry of `categories`; only those with keypoints are of use here."""

    id: int
    name: str
    supercategory: str = ""
    keypoints: list[str] = []
    skeleton: list[tuple[int, int]] = []


class CocoImage(BaseModel):
    """An entry of `images`; `split` is not COCO's own, but common in files that hold several."""

    id: int
    file_name: str
    split: str | None = None


class CocoAnnotation(BaseModel):
    """An entry of `annotations`: one object."""

    id: int
    image_id: int
    category_id: int
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    keypoints: list[float] = []
    iscrowd: bool = False

    @property
    def box(self) -> Box | None:
        """None where the file has no box, or one without area."""
        if self.bbox is None or not (self.bbox[2] > 0 and self.bbox[3] > 0):
            return None
        return Box(*self.bbox)

    @property
    def points(self) -> list[tuple[float, float] | None]:
        """Visible and occluded-but-labelled keypoints (visibility 1 and 2); None for visibility 0."""
        rows = zip(self.keypoints[0::3], self.keypoints[1::3], self.keypoints[2::3], strict=True)
        return [(x, y) if visibility else None for x, y, visibility in rows]

    @property
    def labelled(self) -> int:
        """How many keypoints have a place."""
        return sum(point is not None for point in self.points)


class CocoFile(BaseModel):
    """A COCO keypoint file; `read_coco` reads one."""

    categories: list[CocoCategory]
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    path: Path = Field(default=Path(), exclude=True)
    image_folder: Path | None = Field(default=None, exclude=True)

    def support(
        self,
        category: str | None = None,
        *,
        shots: int = 1,
        image_ids: Sequence[int] = (),
        annotation_ids: Sequence[int] = (),
        skeleton_base: SkeletonBase = "detect",
    ) -> SupportDefinition:
        """A category and some of its annotations as a support.

        Args:
            category: its name; None where the file has only one with keypoints.
            shots: how many annotations to take, of those with the most labelled keypoints; ignored with ids.
            image_ids: take the best labelled annotation of each of these images.
            annotation_ids: take exactly these annotations.
            skeleton_base: index of the first keypoint in skeletons.

        Raises:
            AnnotationError: naming the file and what is missing or wrong in it.
        """
        chosen = self._category(category)
        if len(set(chosen.keypoints)) < len(chosen.keypoints):
            raise self.error(f"category {chosen.name!r}: two keypoints have the same name")
        skeleton = self.skeleton(chosen, skeleton_base)
        annotations = self._choose(chosen, shots, image_ids, annotation_ids)
        return SupportDefinition(
            category=chosen.name,
            keypoints=tuple(KeypointDefinition(name) for name in chosen.keypoints),
            skeleton=skeleton,
            examples=tuple(
                support_example(self.image_path(annotation.image_id), annotation.points, annotation.box)
                for annotation in annotations
            ),
        )

    def boxes(self, category: str | None = None) -> dict[Path, list[Box]]:
        """The boxes of a category, by image: what to look into when estimating on annotated images.

        Raises:
            AnnotationError: there is no such category, or an image is not there.
        """
        chosen = self._category(category)
        found: dict[Path, list[Box]] = {}
        for annotation in self.annotations:
            if annotation.category_id == chosen.id and annotation.box is not None:
                found.setdefault(self.image_path(annotation.image_id), []).append(annotation.box)
        return found

    @property
    def usable_categories(self) -> list[CocoCategory]:
        """Those with keypoints, in the order of the file."""
        return [category for category in self.categories if category.keypoints]

    def skeleton(self, category: CocoCategory, base: SkeletonBase = "detect") -> tuple[tuple[int, int], ...]:
        """A category's edges, as indices from 0.

        Args:
            category: one of this file.
            base: index of the first keypoint in the skeletons of the file.

        Raises:
            AnnotationError: an edge joins a keypoint that is not there, or the file does not show its base.
        """
        first = self._skeleton_base() if base == "detect" else base
        skeleton = tuple((start - first, end - first) for start, end in category.skeleton)
        for edge, (start, end) in zip(category.skeleton, skeleton, strict=True):
            if not (0 <= start < len(category.keypoints) and 0 <= end < len(category.keypoints)):
                raise self.error(f"category {category.name!r}: skeleton edge {list(edge)} joins a keypoint not there")
        return skeleton

    def keypoint_annotations(self, category: CocoCategory) -> list[CocoAnnotation]:
        """The annotations of a category with at least one labelled keypoint, in the order of the file.

        Raises:
            AnnotationError: one has not three numbers for each keypoint.
        """
        found = [annotation for annotation in self._by_category.get(category.id, ()) if annotation.keypoints]
        for annotation in found:
            if len(annotation.keypoints) != 3 * len(category.keypoints):
                raise self.error(
                    f"annotation {annotation.id}: {len(annotation.keypoints)} numbers, three for each of"
                    f" {len(category.keypoints)} keypoints are needed"
                )
        return [annotation for annotation in found if annotation.labelled]

    def image_path(self, image_id: int) -> Path:
        """Where the file of an image is.

        Raises:
            AnnotationError: there is no such image, or its file is missing.
        """
        image = self.images_by_id.get(image_id)
        if image is None:
            raise self.error(f"there is no image {image_id}")
        parent = self.path.parent
        folders = [self.image_folder] if self.image_folder else [parent, parent / "images"]
        for folder in folders:
            if (folder / image.file_name).is_file():
                return folder / image.file_name
        raise self.error(f"image {image.file_name} is not in {' or '.join(str(folder) for folder in folders)}")

    def error(self, message: str) -> AnnotationError:
        """The error that says what is wrong in this file."""
        return AnnotationError(f"{self.path}: {message}")

    @cached_property
    def images_by_id(self) -> dict[int, CocoImage]:
        """Images by their ids."""
        return {image.id: image for image in self.images}

    @cached_property
    def _by_category(self) -> dict[int, list[CocoAnnotation]]:
        found: dict[int, list[CocoAnnotation]] = {}
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
        self, category: CocoCategory, shots: int, image_ids: Sequence[int], annotation_ids: Sequence[int]
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
        """0 or 1, from the indices of all skeletons: 0 is used only when counting from 0, K only from 1."""
        from_zero = any(0 in edge for category in self.categories for edge in category.skeleton)
        from_one = any(len(category.keypoints) in edge for category in self.categories for edge in category.skeleton)
        if from_zero and from_one:
            raise self.error("skeletons hold both index 0 and an index equal to the number of keypoints")
        if not from_zero and not from_one and any(category.skeleton for category in self.categories):
            raise self.error("skeletons may count from 0 or from 1; say which with the skeleton base")
        return 1 if from_one else 0


def read_coco(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> CocoFile:
    """Reads a COCO keypoint file.

    Args:
        path: the JSON file.
        images: folder of its images; None for the file's own folder or `images` in it.

    Raises:
        AnnotationError: it cannot be read, or a field is missing or wrong.
    """
    path = Path(path)
    try:
        file = CocoFile.model_validate(parse_file(path))
    except ValidationError as error:
        raise annotation_error(path, error) from None
    return file.model_copy(update={"path": path, "image_folder": None if images is None else Path(images)})
