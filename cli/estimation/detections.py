"""COCO files of boxes: annotation files, or the results of a detector, which hold image ids but no file names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from cape.annotations import AnnotationError, annotation_error, parse_file
from cape.coco_entries import CocoImage, parse_id
from cape.support import Box

_Id = Annotated[int | str, BeforeValidator(parse_id)]


class _Detection(BaseModel):
    image_id: _Id
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    category_id: _Id | None = None
    score: float | None = None

    @property
    def box(self) -> Box | None:
        """None without a box, or if it has no area."""
        if self.bbox is None or not all(map(math.isfinite, self.bbox)) or min(self.bbox[2:]) <= 0:
            return None
        return Box(*self.bbox)


class _Category(BaseModel):
    id: _Id
    name: str = ""


class _BoxFile(BaseModel):
    annotations: list[_Detection] = []
    images: list[CocoImage] = []
    categories: list[_Category] = []


class _ImageList(BaseModel):
    images: list[CocoImage] = Field(min_length=1)
    categories: list[_Category] = []


@dataclass
class BoxedImage:
    """An image and its boxes, [x, y, width, height] in pixels, with what the file says of each box."""

    image: Path
    image_id: int | str
    boxes: list[Box] = field(default_factory=list)
    categories: list[int | str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def read_detections(
    path: Path,
    folder: Path | None = None,
    *,
    image_list: Path | None = None,
    category: str | None = None,
    min_score: float = 0.0,
) -> tuple[list[BoxedImage], int]:
    """Reads the boxes of a COCO file, by image. Images without a box that qualifies are left out.

    Args:
        path: a COCO annotation file, or a list of detections {image_id, bbox, category_id, score}.
        folder: of the images; None for the file's own folder or `images` beside it.
        image_list: COCO file with the `images` of a list of detections. Without it, an id is looked up among the names
            of the files: "000000000139.jpg" has the id 139, and any file its own name with or without suffix.
        category: name or id of the only category to use.
        min_score: detections below it are left out; boxes without a score always qualify.

    Returns:
        The images in the order of the file, and the number of entries left out because they have no box with an area.

    Raises:
        AnnotationError: naming the file and what is missing or wrong in it.
    """
    document = parse_file(path)
    content = _validated(_BoxFile, {"annotations": document} if isinstance(document, list) else document, path)
    listed = content.images
    categories = content.categories
    if image_list is not None:
        named = _validated(_ImageList, parse_file(image_list), image_list)
        listed, categories = named.images, named.categories or categories
    wanted = None if category is None else _category_id(category, categories, content.annotations, path)
    folders = [folder] if folder is not None else [path.parent, path.parent / "images", path.parent.parent / "images"]
    find = _by_list(listed, folders, image_list or path) if listed else _by_name(folders, path)
    found: dict[int | str, BoxedImage] = {}
    empty = 0
    for detection in content.annotations:
        if wanted is not None and detection.category_id != wanted:
            continue
        if detection.score is not None and not detection.score >= min_score:
            continue
        box = detection.box
        if box is None:
            empty += 1
            continue
        if detection.image_id not in found:
            found[detection.image_id] = BoxedImage(find(detection.image_id), detection.image_id)
        entry = found[detection.image_id]
        entry.boxes.append(box)
        entry.categories.append(1 if detection.category_id is None else detection.category_id)
        entry.scores.append(1.0 if detection.score is None else detection.score)
    if not found:
        raise AnnotationError(f"{path}: holds no box to search, of those that --category and --min-score let through")
    return list(found.values()), empty


def _validated(model: type[Any], document: Any, path: Path) -> Any:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise annotation_error(path, error) from None


def _category_id(name: str, categories: list[_Category], boxes: list[_Detection], path: Path) -> int | str:
    for category in categories:
        if category.name == name:
            return category.id
    wanted: int | str = parse_id(name)
    if any(box.category_id == wanted for box in boxes):
        return wanted
    known = ", ".join(category.name for category in categories) or "none by name"
    raise AnnotationError(f"{path}: no category {name!r}; the file has {known}")


def _by_list(images: list[CocoImage], folders: list[Path], path: Path) -> Callable[[int | str], Path]:
    names = {image.id: image.file_name for image in images}

    def find(image_id: int | str) -> Path:
        if image_id not in names:
            raise AnnotationError(f"{path}: there is no image {image_id}")
        slashed = names[image_id].replace("\\", "/")
        for name in dict.fromkeys((names[image_id], slashed, slashed.rpartition("/")[2])):
            for folder in folders:
                if name and (folder / name).is_file():
                    return folder / name
        raise AnnotationError(f"{path}: image {names[image_id]} is not in {_listed(folders)}: --images FOLDER?")

    return find


def _by_name(folders: list[Path], path: Path) -> Callable[[int | str], Path]:
    names: dict[int | str, Path] = {}
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.suffix != ".json" and file.is_file():
                for key in (file.name, file.stem, parse_id(file.stem)):
                    names.setdefault(key, file)

    def find(image_id: int | str) -> Path:
        if image_id not in names:
            raise AnnotationError(
                f"{path}: no file of {_listed(folders)} is named like image id {image_id}: give their folder with "
                "--images, or a COCO file that lists them with --image-list"
            )
        return names[image_id]

    return find


def _listed(folders: list[Path]) -> str:
    return " or ".join(str(folder) for folder in folders)
