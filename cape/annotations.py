"""Support annotation files: small JSON or YAML files that define a support.

`docs/annotations.md` describes the format with examples; `cape.coco` reads supports from COCO files.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
)

from cape.support import Box, KeypointDefinition, Modality, SupportDefinition, SupportExample


class AnnotationError(ValueError):
    """An invalid annotation file. The message names the file and the field."""


def read_support(path: str | os.PathLike[str]) -> SupportDefinition:
    """Reads a support annotation file. Example images stay paths; they are read when the support is sent.

    Args:
        path: a `.json` file, or YAML under any other ending.

    Raises:
        AnnotationError: the file cannot be read, a field is wrong, or an example image is missing.
    """
    path = Path(path)
    try:
        file = _SupportFile.model_validate(parse_file(path))
    except ValidationError as error:
        raise annotation_error(path, error) from None
    try:
        return _definition(file, path.parent)
    except ValueError as error:
        raise AnnotationError(f"{path}: {error}") from None


def write_support(definition: SupportDefinition, path: str | os.PathLike[str]) -> None:
    """Writes a support annotation file for `read_support`. Image paths become relative to it.

    Args:
        definition: its example images must be file paths.
        path: a `.json` file, or YAML under any other ending.

    Raises:
        ValueError: an example image is not a path.
        OSError: the file cannot be written.
    """
    path = Path(path)
    document: dict[str, Any] = {
        "category": definition.category,
        "keypoints": [
            {"name": keypoint.name, "description": keypoint.description} if keypoint.description else keypoint.name
            for keypoint in definition.keypoints
        ],
        "skeleton": [_Row(edge) for edge in definition.skeleton],
        "modalities": list(definition.modalities),
        "examples": [
            _example_document(example, index, path.parent) for index, example in enumerate(definition.examples)
        ],
    }
    document = {key: value for key, value in document.items() if value}
    if path.suffix.lower() == ".json":
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    else:
        text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def parse_file(path: Path) -> Any:
    """Parses a JSON or YAML file.

    Raises:
        AnnotationError: it cannot be read, or is neither.
    """
    try:
        data = path.read_bytes()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if wide else "utf-8-sig")
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise AnnotationError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AnnotationError(f"{path}: not a text file") from None
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise AnnotationError(f"{path}: {where}not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise AnnotationError(f"{path}: nested too deeply") from None
    except ValueError as error:  # For example a number with thousands of digits or, in YAML, the 99th of a month.
        raise AnnotationError(f"{path}: {error}") from None


def annotation_error(path: Path, error: ValidationError) -> AnnotationError:
    """Formats the first error of pydantic, with file and field: "cat.yaml: examples[0].box: ..."."""
    first = error.errors()[0]
    field = ""
    for part in first["loc"]:
        if isinstance(part, int):
            field += f"[{part}]"
        elif not part.startswith("<"):
            field += f".{part}" if field else part
    message = first["msg"].removeprefix("Value error, ")
    return AnnotationError(f"{path}: {field or 'document'}: {message}")


def _parse_point(value: Any) -> tuple[float, float] | None:
    """[x, y], [x, y, visible] or null; None where hidden."""
    match value:
        case None:
            return None
        case [x, y] | [x, y, bool() | 0 | 1 | 2] if _is_number(x) and _is_number(y):
            hidden = len(value) == 3 and not value[2]
            return None if hidden else (float(x), float(y))
    raise ValueError("a keypoint is [x, y], [x, y, visible] or null")


def _parse_edge(value: object) -> tuple[int | str, int | str]:
    match value:
        case [int() | str() as start, int() | str() as end]:
            return start, end
    raise ValueError("an edge is two keypoints, by index from 0 or by name")


def _parse_box(value: Any) -> Box | None:
    match value:
        case None:
            return None
        case [x, y, width, height] if all(map(_is_number, value)) and width > 0 and height > 0:
            return Box(float(x), float(y), float(width), float(height))
    raise ValueError("a box is [x, y, width, height] in pixels, width and height more than 0")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_Point = Annotated[tuple[float, float] | None, PlainValidator(_parse_point)]
_Points = Annotated[
    Annotated[list[_Point], Tag("<by order>")] | Annotated[dict[str, _Point], Tag("<by name>")],
    Discriminator(lambda value: "<by name>" if isinstance(value, dict) else "<by order>"),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Keypoint(_Strict):
    name: str = Field(min_length=1)
    description: str = ""


class _Example(_Strict):
    image: str = Field(min_length=1)
    box: Annotated[Box | None, PlainValidator(_parse_box)] = None
    keypoints: _Points


class _SupportFile(_Strict):
    category: str = Field(min_length=1)
    keypoints: list[
        Annotated[_Keypoint, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]
    ] = Field(min_length=1)
    skeleton: list[Annotated[tuple[int | str, int | str], PlainValidator(_parse_edge)]] = []
    examples: list[_Example] = []
    modalities: list[Modality] = []


def _definition(file: _SupportFile, folder: Path) -> SupportDefinition:
    """Converts a parsed file. Raises ValueError naming the field if its parts are inconsistent."""
    names = [keypoint.name for keypoint in file.keypoints]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"keypoints[{index}].name: {name!r} is there twice")
    return SupportDefinition(
        category=file.category,
        keypoints=tuple(KeypointDefinition(keypoint.name, keypoint.description) for keypoint in file.keypoints),
        skeleton=tuple(
            (
                _keypoint_index(start, names, f"skeleton[{index}]"),
                _keypoint_index(end, names, f"skeleton[{index}]"),
            )
            for index, (start, end) in enumerate(file.skeleton)
        ),
        examples=tuple(
            _support_example(example, names, folder, f"examples[{index}]")
            for index, example in enumerate(file.examples)
        ),
        modalities=tuple(file.modalities),
    )


def _keypoint_index(value: int | str, names: list[str], field: str) -> int:
    if isinstance(value, str):
        if value not in names:
            raise ValueError(f"{field}: there is no keypoint {value!r}")
        return names.index(value)
    if not 0 <= value < len(names):
        raise ValueError(f"{field}: there is no keypoint {value}; indices run from 0 to {len(names) - 1}")
    return value


def _support_example(example: _Example, names: list[str], folder: Path, field: str) -> SupportExample:
    image = folder / example.image
    if not image.is_file():
        raise ValueError(f"{field}.image: no such file: {image}")
    if isinstance(example.keypoints, dict):
        for name in example.keypoints:
            _keypoint_index(name, names, f"{field}.keypoints")
        points = [example.keypoints.get(name) for name in names]
    else:
        points = example.keypoints
        if len(points) != len(names):
            raise ValueError(f"{field}.keypoints: {len(points)} points for {len(names)} keypoints")
    return support_example(image, points, example.box)


def support_example(image: Path, points: list[tuple[float, float] | None], box: Box | None) -> SupportExample:
    """Makes an example from its points, None where hidden."""
    return SupportExample(
        image=image,
        keypoints=np.array([point or (0.0, 0.0) for point in points], dtype=np.float32),
        visible=np.array([point is not None for point in points], dtype=np.bool_),
        box=box,
    )


class _Row(list[Any]):
    """A short list that is written on one line: a point, an edge, a box."""


class _Dumper(yaml.SafeDumper):
    """Writes every `_Row` on a line of its own, and the rest in blocks."""


_Dumper.add_representer(
    _Row, lambda dumper, row: dumper.represent_sequence("tag:yaml.org,2002:seq", row, flow_style=True)
)


def _example_document(example: SupportExample, index: int, folder: Path) -> dict[str, Any]:
    if not isinstance(example.image, str | os.PathLike):
        raise ValueError(f"examples[{index}].image: only the path of a file can be written")
    document: dict[str, Any] = {"image": Path(os.path.relpath(example.image, folder)).as_posix()}
    if example.box is not None:
        document["box"] = _Row([example.box.x, example.box.y, example.box.width, example.box.height])
    document["keypoints"] = [
        _Row([float(x), float(y)]) if seen else None
        for (x, y), seen in zip(example.keypoints, example.visible, strict=True)
    ]
    return document
