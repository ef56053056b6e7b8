"""What `capeserve estimate` is given, as images with the boxes to search: files, folders, globs, COCO files."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from cape.support import Box
from cli.estimation.detections import read_detections

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"})
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})


@dataclass(frozen=True, slots=True)
class Job:
    """One image to estimate.

    Attributes:
        image: its file.
        boxes: where to search, in pixels; empty for the whole image.
        image_id: its id in COCO results.
        categories: COCO category of each box; empty if unknown.
        box_scores: score that the detector gave each box; empty if unknown.
    """

    image: Path
    boxes: tuple[Box, ...] = ()
    image_id: int | str = 0
    categories: tuple[int | str, ...] = ()
    box_scores: tuple[float, ...] = ()

    @property
    def instances(self) -> int:
        """Number of instances in the answer."""
        return max(1, len(self.boxes))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which boxes of a COCO file to use, and where its images are.

    Attributes:
        folder: of the images; None for the file's own folder or `images` beside it.
        image_list: COCO file whose `images` name the files, for detections that hold only ids.
        category: only boxes of this category.
        min_score: only boxes that the detector gave at least this score.
    """

    folder: Path | None = None
    image_list: Path | None = None
    category: str | None = None
    min_score: float = 0.0


def find_jobs(sources: Sequence[str], boxes: tuple[Box, ...], selection: Selection) -> list[Job]:
    """The images that the arguments name, each once, in the order of the arguments.

    Args:
        sources: image files, folders (their images, sorted, without subfolders), globs (`**` for subfolders), COCO
            files.
        boxes: boxes for every image that has none of its own.
        selection: which boxes of COCO files to use.

    Raises:
        click.UsageError: an argument names nothing, or boxes come from two places.
        AnnotationError: a COCO file cannot be used.
    """
    jobs: dict[Path, Job] = {}
    for source in sources:
        for job in _jobs_of(source, boxes, selection):
            jobs.setdefault(job.image, job)
    return list(jobs.values())


def _jobs_of(source: str, boxes: tuple[Box, ...], selection: Selection) -> Iterator[Job]:
    path = Path(source)
    if path.is_file() and path.suffix.lower() == ".json":
        if boxes:
            raise click.UsageError(f"--box and the boxes of {source} exclude each other")
        found, empty = read_detections(
            path,
            selection.folder,
            image_list=selection.image_list,
            category=selection.category,
            min_score=selection.min_score,
        )
        if empty:
            click.echo(f"{source}: {empty} entries without a box are left out", err=True)
        for entry in found:
            yield Job(entry.image, tuple(entry.boxes), entry.image_id, tuple(entry.categories), tuple(entry.scores))
        return
    for image in _image_files(source, path):
        yield Job(image, boxes, _id_of(image))


def _image_files(source: str, path: Path) -> list[Path]:
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if _is_image(file))
        if not images:
            raise click.UsageError(f"{source} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return images
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise click.UsageError(f"{source} is a video, which this command does not read: give its frames as images")
    if path.exists():
        return [path]
    if glob.has_magic(source):
        matches = glob.iglob(source, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        images = sorted(file for file in map(Path, matches) if _is_image(file))
        if not images:
            raise click.UsageError(f"no image matches {source}")
        return images
    raise click.UsageError(f"{source} does not exist")


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()


def _id_of(image: Path) -> int | str:
    """COCO names its images by their ids, as in 000000000139.jpg; other images are identified by their file names."""
    return int(image.stem) if image.stem.isascii() and image.stem.isdigit() else image.name
