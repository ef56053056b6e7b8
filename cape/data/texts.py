"""Texts files: names, descriptions and paraphrases of keypoints for data sets that lack them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cape.annotations import AnnotationError, annotation_error, parse_file
from cape.data.dataset import AnnotatedObject, Category, DatasetError, KeypointDataset
from cape.support import KeypointDefinition


class CategoryTexts(BaseModel):
    """Texts of one category, in the order of its keypoints; an empty list leaves what the data set has.

    Attributes:
        names: a name for each keypoint; "" keeps the data set's.
        descriptions: what text encoders read; "" for none.
        paraphrases: other texts of the same meaning, a list for each keypoint.
    """

    model_config = ConfigDict(extra="forbid")

    names: list[str] = []
    descriptions: list[str] = []
    paraphrases: list[list[str]] = []


_ADAPTER = TypeAdapter(dict[str, CategoryTexts])


def read_texts(path: Path) -> dict[str, CategoryTexts]:
    """Reads a texts file: category name → texts, in YAML or JSON.

    Raises:
        AnnotationError: naming the file and the field.
    """
    try:
        return _ADAPTER.validate_python(parse_file(path))
    except ValidationError as error:
        raise annotation_error(path, error) from None


def with_texts(category: Category, texts: Mapping[str, CategoryTexts], source: Path) -> Category:
    """A category with the texts that a file gives it.

    Raises:
        DatasetError: a list has not one entry for each keypoint, or two keypoints get one name.
    """
    given = texts.get(category.name)
    if given is None:
        return category
    count = len(category.keypoints)
    for field in ("names", "descriptions", "paraphrases"):
        if (length := len(getattr(given, field))) not in (0, count):
            raise DatasetError(f"{source}: {category.name}.{field}: {length} entries for {count} keypoints")
    names = [new or old.name for new, old in zip(given.names or [""] * count, category.keypoints, strict=True)]
    if len(set(names)) < count:
        raise DatasetError(f"{source}: {category.name}.names: two keypoints have the same name")
    descriptions = given.descriptions or [old.description if not given.names else "" for old in category.keypoints]
    return replace(
        category,
        keypoints=tuple(KeypointDefinition(n, d) for n, d in zip(names, descriptions, strict=True)),
        paraphrases=tuple(map(tuple, given.paraphrases)) or category.paraphrases,
    )


class DatasetWithTexts:
    """A data set whose categories have the texts of a file. A `KeypointDataset`.

    Args:
        dataset: the data.
        path: the texts file.

    Raises:
        DatasetError: the file cannot be read, does not fit a category, or names one that is not there.
    """

    def __init__(self, dataset: KeypointDataset, path: Path) -> None:
        self._dataset = dataset
        try:
            texts = read_texts(path)
        except AnnotationError as error:
            raise DatasetError(str(error)) from None
        self._categories = tuple(with_texts(category, texts, path) for category in dataset.categories)
        unknown = sorted(texts.keys() - {category.name for category in dataset.categories})
        self._notes = []
        if unknown:
            self._notes = [f"{path.name}: {len(unknown)} categories are not in this data, {unknown[0]!r} for one"]

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self._dataset.name

    @property
    def categories(self) -> Sequence[Category]:
        """The categories with their texts."""
        return self._categories

    @property
    def notes(self) -> Sequence[str]:
        """Notes of the data set, and categories of the file that it does not have."""
        return [*getattr(self._dataset, "notes", ()), *self._notes]

    @property
    def report(self) -> Any:
        """Missing and renamed images, of data sets that report them."""
        return getattr(self._dataset, "report", None)

    def objects(self, category: int) -> Sequence[int]:
        """Ids of the objects of a category."""
        return self._dataset.objects(category)

    def load(self, object_id: int) -> AnnotatedObject:
        """Reads one object.

        Raises:
            DatasetError: its image is missing or cannot be read.
        """
        return self._dataset.load(object_id)


def says_nothing(name: str) -> bool:
    """Whether a keypoint's name is a mere number: "3" or "keypoint 3"."""
    return name.removeprefix("keypoint ").strip().isdigit()


def texts_template(dataset: KeypointDataset) -> tuple[dict[str, Any], list[str]]:
    """A texts file to fill in, and what is missing.

    Returns:
        Category name → names, descriptions and paraphrases as they are; and a sentence for each category in which
        names or descriptions are missing.
    """
    document: dict[str, Any] = {}
    missing = []
    for category in dataset.categories:
        document[category.name] = {
            "names": [keypoint.name for keypoint in category.keypoints],
            "descriptions": [keypoint.description for keypoint in category.keypoints],
            "paraphrases": [list(texts) for texts in category.paraphrases],
        }
        names = sum(says_nothing(keypoint.name) for keypoint in category.keypoints)
        descriptions = sum(not keypoint.description for keypoint in category.keypoints)
        lacking = [f"{names} names" * bool(names), f"{descriptions} descriptions" * bool(descriptions)]
        if any(lacking):
            missing.append(f"{category.name}: {' and '.join(filter(None, lacking))} of {len(category.keypoints)}")
    return document, missing


def write_texts(document: Mapping[str, Any], path: Path) -> None:
    """Writes a texts file: JSON under `.json`, else YAML.

    Raises:
        OSError: it cannot be written.
    """
    if path.suffix.lower() == ".json":
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    else:
        text = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
