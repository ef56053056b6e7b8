"""Opens data sets from a configuration or flags. The only module that knows every kind."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cape.coco import SkeletonBase
from cape.data.dataset import DatasetError, KeypointDataset

Part: TypeAlias = Literal["train", "val", "test"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CocoSource(_Strict):
    """A COCO keypoint file."""

    kind: Literal["coco"] = "coco"
    annotations: Path = Field(description="The JSON file, or a folder in which it is called annotations.json.")
    images: Path | None = Field(None, description="Folder of its images; unset: the file's own, or images in it.")
    split: str | None = Field(None, description="Only images whose field `split` says so.")
    categories: tuple[str, ...] = Field((), description="Names of the categories to take; none: all.")
    one_object_per_image: bool = Field(False, description="Only images that show a single object of them.")
    skeleton_base: SkeletonBase = Field("detect", description="Index of the first keypoint in skeletons.")
    texts: Path | None = Field(None, description="Texts file: names, descriptions and paraphrases by category.")


class SyntheticSource(_Strict):
    """Procedural pictures: nothing to download."""

    kind: Literal["synthetic"]
    split: Part = "test"
    objects_per_category: int = Field(200, ge=1)
    seed: int = Field(0, ge=0)
    backdrops: Path | None = Field(None, description="Folder of real images, parts of which stand behind objects.")


class Mp100Source(_Strict):
    """MP-100 as published: a JSON file for each split and part, and one folder of images."""

    kind: Literal["mp100"]
    annotations: Path = Field(description="Folder of the JSON files.")
    images: Path = Field(description="Folder of the images.")
    fold: int = Field(1, ge=1, le=5, description="Which of the five splits.")
    split: Part = "test"
    texts: Path | None = Field(None, description="Texts file: names, descriptions and paraphrases by category.")


DataSource: TypeAlias = Annotated[CocoSource | SyntheticSource | Mp100Source, Field(discriminator="kind")]

_ADAPTER: TypeAdapter[DataSource] = TypeAdapter(DataSource)


def parse_data_source(document: Mapping[str, Any]) -> DataSource:
    """Parses the configuration of a data set.

    Raises:
        DatasetError: naming the field that is missing or wrong.
    """
    try:
        return _ADAPTER.validate_python(dict(document))
    except ValidationError as error:
        raise DatasetError(first_mistake(error, "data")) from None


def first_mistake(error: ValidationError, where: str) -> str:
    """The first mistake that pydantic found, with its field: "data.images: Field required"."""
    first = error.errors()[0]
    # A tagged union puts its tag into the path.
    path = [str(part) for part in first["loc"] if part not in ("coco", "synthetic", "mp100")]
    return f"{'.'.join([where, *path]) if where else '.'.join(path)}: {first['msg'].removeprefix('Value error, ')}"


def open_dataset(source: DataSource) -> KeypointDataset:
    """Opens a data set, with the texts of its texts file where it has one.

    Raises:
        DatasetError: it or its texts file cannot be read, or its loader is not part of this installation.
    """
    dataset = _open(source)
    if isinstance(source, SyntheticSource) or source.texts is None:
        return dataset
    from cape.data.texts import DatasetWithTexts

    return DatasetWithTexts(dataset, source.texts)


def _open(source: DataSource) -> KeypointDataset:
    if isinstance(source, CocoSource):
        from cape.data.coco_dataset import CocoDataset

        return CocoDataset(
            source.annotations,
            source.images,
            split=source.split,
            categories=source.categories,
            one_object_per_image=source.one_object_per_image,
            skeleton_base=source.skeleton_base,
        )
    if isinstance(source, SyntheticSource):
        from cape.data.synthetic import SyntheticDataset

        return SyntheticDataset(
            source.split,
            objects_per_category=source.objects_per_category,
            seed=source.seed,
            backdrops=source.backdrops,
        )
    loader = importlib.import_module("cape.data.mp100").Mp100Dataset
    return cast(KeypointDataset, loader(source.annotations, source.images, fold=source.fold, split=source.split))
