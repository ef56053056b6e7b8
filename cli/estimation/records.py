"""Answers as records in a file that grows image by image, and from which an interrupted run goes on.

An image's records are written in one piece once it has been answered. A run that stops while it writes leaves at most
one incomplete image at the end of the file; reading the file again cuts it off.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cape.client import PoseEstimate
from cape.client.answers import PoseInstance
from cli.estimation.inputs import Job

FORMATS = ("jsonl", "csv", "coco")

COLUMNS = ("image", "instance", "box_x", "box_y", "box_width", "box_height", "keypoint", "x", "y", "score", "located")

_END = b"\n]\n"


class ResumeError(ValueError):
    """A file of records cannot be continued."""


class RecordFormat(Protocol):
    """A format of records."""

    start: bytes
    end: bytes
    """Stand before the first and after the last record."""
    between: bytes
    """Stands between the records of two images."""

    def encode(self, job: Job, pose: PoseEstimate, document: dict[str, Any]) -> bytes:
        """The records of one image."""

    def read(self, line: bytes) -> tuple[str, Sequence[str] | int, int] | None:
        """Image, keypoint names or their number, and instances that begin on a line; None for other lines.

        Raises:
            ValueError: not a line of this format.
        """


class JsonLines:
    """One image per line: what `--json` prints, plus its image_id."""

    start = end = b""
    between = b""

    def encode(self, job: Job, pose: PoseEstimate, document: dict[str, Any]) -> bytes:
        """The line of one image."""
        return json.dumps({"image": document["image"], "image_id": job.image_id, **document}).encode() + b"\n"

    def read(self, line: bytes) -> tuple[str, Sequence[str] | int, int] | None:
        """Reads a line."""
        try:
            document = json.loads(line)
            instances = document["instances"]
            names = [keypoint["name"] for keypoint in instances[0]["keypoints"]]
            return document["image"], names, len(instances)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(str(error)) from None


class Csv:
    """One keypoint per line."""

    start = (",".join(COLUMNS) + "\n").encode()
    end = b""
    between = b""

    def encode(self, job: Job, pose: PoseEstimate, document: dict[str, Any]) -> bytes:
        """The lines of one image."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for number, instance in enumerate(pose.instances, start=1):
            box = instance.box
            for name, (x, y), score, located in _keypoints(instance):
                place = (x, y, score, 1) if located else ("", "", "", 0)
                # Line breaks in names would make one keypoint two lines.
                name = " ".join(name.split())
                writer.writerow((document["image"], number, box.x, box.y, box.width, box.height, name, *place))
        return text.getvalue().encode(errors="surrogateescape")

    def read(self, line: bytes) -> tuple[str, Sequence[str] | int, int] | None:
        """Reads a line. Every line counts one; `instances` of an image are its lines."""
        if line == self.start:
            return None
        (row,) = csv.reader([line.decode(errors="surrogateescape")])
        if len(row) != len(COLUMNS):
            raise ValueError(f"{len(row)} columns")
        return row[0], [row[6]], 1


class CocoResults:
    """COCO results: an array with one object per line, valid JSON after every image.

    `keypoints` holds x, y and score; not located keypoints are 0, 0, 0. `score` is the mean score of the located
    keypoints, times the detector's score of the box. `file_name` is an addition to COCO's fields.
    """

    start = b"[\n"
    end = _END
    between = b",\n"

    def encode(self, job: Job, pose: PoseEstimate, document: dict[str, Any]) -> bytes:
        """The lines of one image, without the comma after the last."""
        lines = []
        for index, instance in enumerate(pose.instances):
            flat = [value for _, (x, y), score, located in _keypoints(instance) for value in (x, y, score)]
            scores = [score for _, _, score, located in _keypoints(instance) if located]
            detected = job.box_scores[index] if job.box_scores else 1.0
            box = instance.box
            entry = {
                "image_id": job.image_id,
                "category_id": job.categories[index] if job.categories else 1,
                "keypoints": flat,
                "score": detected * sum(scores) / len(scores) if scores else 0.0,
                "bbox": [box.x, box.y, box.width, box.height],
                "file_name": document["image"],
            }
            lines.append(json.dumps(entry))
        return ",\n".join(lines).encode()

    def read(self, line: bytes) -> tuple[str, Sequence[str] | int, int] | None:
        """Reads a line."""
        line = line.rstrip()
        if line in (b"[", b"]", b""):
            return None
        try:
            entry = json.loads(line.removesuffix(b","))
            return entry["file_name"], len(entry["keypoints"]) // 3, 1
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from None


_FORMATS: dict[str, RecordFormat] = {"jsonl": JsonLines(), "csv": Csv(), "coco": CocoResults()}


class RecordWriter:
    """Writes records of images as they are answered."""

    def __init__(self, stream: BinaryIO, format_: str, *, empty: bool = True, seekable: bool = False) -> None:
        """Writes the beginning, unless the stream continues a file that has one.

        Args:
            stream: where to write; not closed.
            format_: one of `FORMATS`.
            empty: whether there is no record yet.
            seekable: whether the end can be overwritten, so that the file is complete after every image.
        """
        self._stream = stream
        self._format = _FORMATS[format_]
        self._empty = empty
        self._seekable = seekable
        if empty:
            stream.write(self._format.start)
            if seekable:
                self._write_end()

    def write(self, job: Job, pose: PoseEstimate, document: dict[str, Any]) -> None:
        """Writes the records of one image."""
        content = self._format.encode(job, pose, document)
        if not self._empty:
            content = self._format.between + content
        self._empty = False
        if self._seekable:
            self._stream.seek(-len(self._format.end), os.SEEK_END)
            self._stream.write(content)
            self._write_end()
        else:
            self._stream.write(content)
            self._stream.flush()

    def finish(self) -> None:
        """Writes the end where it could not be written before."""
        if not self._seekable:
            self._stream.write(self._format.end)
        self._stream.flush()

    def _write_end(self) -> None:
        self._stream.write(self._format.end)
        self._stream.flush()


def continue_file(path: Path, format_: str, jobs: Sequence[Job], names: Sequence[str]) -> tuple[set[str], bool]:
    """Prepares a file of an earlier run to be continued: cuts off what is incomplete at its end.

    Args:
        path: the file; it need not exist.
        format_: one of `FORMATS`.
        jobs: images to estimate.
        names: names of the support's keypoints.

    Returns:
        Images already answered, and whether the file has records.

    Raises:
        ResumeError: the file is of another format, or was written with another support or other boxes.
    """
    if not path.exists():
        return set(), False
    kind = _FORMATS[format_]
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    counts: Counter[str] = Counter()
    starts: dict[str, int] = {}
    position = end = 0
    for number, line in enumerate(lines, start=1):
        try:
            entry = kind.read(line) if line.endswith(b"\n") else None
        except ValueError:
            raise ResumeError(f"{path}: line {number} is not {format_}; {_ADVICE}") from None
        if entry is not None:
            image, found, instances = entry
            # A CSV line holds one keypoint, at a position that follows from the number of lines before it.
            name = names[counts[image] % len(names)]
            expected = [" ".join(name.split())] if format_ == "csv" else list(names)
            if found != (len(names) if isinstance(found, int) else expected):
                raise ResumeError(f"{path}: line {number} has keypoints of another support; {_ADVICE}")
            starts.setdefault(image, position)
            counts[image] += instances
            end = position + len(line)
        position += len(line)
    beginning = kind.start or b'{"image": '
    if not counts and content[: len(beginning)] != beginning[: len(content)]:
        raise ResumeError(f"{path}: not a file of {format_} records; {_ADVICE}")
    per_instance = len(names) if format_ == "csv" else 1
    wanted = {str(job.image): job.instances * per_instance for job in jobs}
    last = max(starts, key=starts.__getitem__, default=None)
    for image, count in list(counts.items()):
        if count == wanted.get(image, count):
            continue
        if image != last or count > wanted[image]:
            raise ResumeError(f"{path}: {image} was answered for other boxes; {_ADVICE}")
        end = starts[image]
        del counts[image]
    _truncate(path, kind, content[:end] if counts else b"")
    return set(counts), bool(counts)


_ADVICE = "name another --output-file, or start again with --overwrite"


def _truncate(path: Path, kind: RecordFormat, content: bytes) -> None:
    """Leaves complete records, without and then with the end of the format."""
    if not content:
        path.write_bytes(b"")
        return
    whole = content.rstrip(b",\n") + kind.end if kind.end else content
    with path.open("r+b") as stream:
        stream.seek(0)
        stream.write(whole)
        stream.truncate()


def _keypoints(instance: PoseInstance) -> list[tuple[str, tuple[float, float], float, bool]]:
    return [
        (name, (float(x), float(y)), float(score), bool(located))
        for name, (x, y), score, located in zip(
            instance.names, instance.keypoints, instance.scores, instance.located, strict=True
        )
    ]
