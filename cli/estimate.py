"""`capeserve estimate`: finds the keypoints of a support in images, draws them, and writes them as records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from cape.annotations import read_support
from cape.client import Client, PoseEstimate, Query
from cape.support import Box, SupportDefinition
from cli.boxes import box_option
from cli.connection import Connection, connects
from cli.consoles import console
from cli.estimation.answers import answer_jobs, open_records
from cli.estimation.inputs import Job, Selection, find_jobs
from cli.estimation.records import FORMATS

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_FORMAT_OF = {".jsonl": "jsonl", ".csv": "csv", ".json": "coco"}
"""Format of an output file, by its suffix."""


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="IMAGE|FOLDER|GLOB|COCO...")
@click.option(
    "--support",
    "support_source",
    required=True,
    metavar="NAME|FILE",
    help="A registered support, or an annotation file.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write IMAGE_pose.png for each image into this folder.",
)
@box_option
@click.option("--find-box", is_flag=True, help="Without --box: look for the object in the image first. Slower.")
@click.option("--model", default="", help="models/{system}.  [default: the server's]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--follow",
    is_flag=True,
    help="Print keypoints as they are found, if the model finds them one by one (capellm).",
)
@click.option("--images", "folder", type=_FOLDER, help="Folder of a COCO file's images.  [default: its own]")
@click.option("--image-list", type=_EXISTING_FILE, help="COCO file that lists the images of a file of detections.")
@click.option("--category", help="Only boxes of this category of a COCO file: name or id.")
@click.option("--min-score", type=float, default=0.0, help="Only detections with at least this score.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="Write records as images are answered.  [default: by the suffix of --output-file: .jsonl, .csv, .json (coco)]",
)
@click.option("--output-file", type=_FILE, help="Write records here; images already in it are skipped.")
@click.option("--overwrite", is_flag=True, help="Start --output-file again.")
@click.option("--quiet", is_flag=True, help="No table and no progress bar: only records and errors.")
@connects
def estimate(
    connection: Connection,
    sources: tuple[str, ...],
    support_source: str,
    output: Path | None,
    boxes: tuple[Box, ...],
    find_box: bool,
    model: str,
    as_json: bool,
    follow: bool,
    folder: Path | None,
    image_list: Path | None,
    category: str | None,
    min_score: float,
    format_: str | None,
    output_file: Path | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Find the keypoints of a support in images.

    Takes image files, folders, globs, and COCO files of boxes. With --output-file, a run that was interrupted goes on
    where it stopped.
    """
    errors = console(stderr=True)
    format_ = _record_format(format_, output_file, as_json)
    jobs = find_jobs(sources, boxes, Selection(folder, image_list, category, min_score))
    if format_ == "coco":
        _refuse_shared_ids(jobs)
    if output is not None:
        if any(Path(source).is_dir() and output.resolve() == Path(source).resolve() for source in sources):
            raise click.UsageError(f"--output: {output} is searched for images, and would be again with the pictures")
        output.mkdir(parents=True, exist_ok=True)
    stems = dict(zip((job.image for job in jobs), _unique_stems([job.image for job in jobs]), strict=True))
    results: list[dict[str, Any]] = []
    poses: list[PoseEstimate | None] = []
    failed: list[dict[str, Any]] = []
    with connection.client() as client, ExitStack() as stack:
        sent, definition = _resolve_support(client, support_source)
        writer = None
        if format_ is not None:
            names = [keypoint.name for keypoint in definition.keypoints]
            writer, jobs = stack.enter_context(open_records(format_, output_file, jobs, names, overwrite=overwrite))
        else:
            results, poses = [{} for _ in jobs], [None] * len(jobs)
        with _progress(errors, len(jobs), quiet=quiet) as advance:
            options = Query(b"", sent, None, model, partial_answers=follow, find_box=find_box)
            for index, answer in answer_jobs(client, jobs, options):
                job = jobs[index]
                if isinstance(answer, PoseEstimate) and answer.partial:
                    _say(errors, job.image, answer)
                    continue
                advance()
                if not isinstance(answer, PoseEstimate):
                    failed.append({"image": str(job.image), "error": str(answer)})
                    if writer is None:
                        results[index] = failed[-1]
                    continue
                drawn = (
                    [] if output is None else _draw(job.image, answer, definition.skeleton, output / stems[job.image])
                )
                document = _document(job.image, answer, drawn)
                if writer is None:
                    poses[index], results[index] = answer, document
                else:
                    writer.write(job, answer, document)
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
    elif format_ is None and not quiet:
        _print_table([job.image for job in jobs], poses, results)
    for result in failed:
        errors.print(f"Error: {result['image']}: {result['error']}")
    if failed:
        raise SystemExit(1)


def _record_format(format_: str | None, output_file: Path | None, as_json: bool) -> str | None:
    """The format of records, None for none."""
    if format_ is None and output_file is not None:
        format_ = _FORMAT_OF.get(output_file.suffix.lower())
        if format_ is None:
            raise click.UsageError(f"--output-file: {output_file} shows no format; give --format")
    if as_json and format_ is not None:
        raise click.UsageError("--json prints one array at the end; --format and --output-file write as answers arrive")
    return format_


def _refuse_shared_ids(jobs: Sequence[Job]) -> None:
    seen: dict[int | str, Path] = {}
    for job in jobs:
        if job.image_id in seen:
            raise click.UsageError(
                f"COCO results need one id per image, but {seen[job.image_id]} and {job.image} both have"
                f" {job.image_id!r}: give a COCO file, or another --format"
            )
        seen[job.image_id] = job.image


def _resolve_support(client: Client, source: str) -> tuple[str | SupportDefinition, SupportDefinition]:
    """Returns the support to send, and its definition."""
    if Path(source).is_file():
        definition = read_support(source)
        return definition, definition
    if not source.startswith("supports/"):
        raise click.UsageError(f"--support: {source} is no file, and names of supports start with supports/")
    return source, client.get_support(source, images=False).definition


def _say(terminal: Console, image: Path, part: PoseEstimate) -> None:
    """Prints a line for each newly found keypoint."""
    for number, instance in enumerate(part.instances, start=1):
        for name, (x, y), score in zip(instance.names, instance.keypoints, instance.scores, strict=True):
            terminal.print(f"{image.name}, {number}: {name} at {x:.1f}, {y:.1f}, score {score:.2f}", markup=False)


@contextmanager
def _progress(terminal: Console, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """A progress bar for several images on a terminal; otherwise nothing is shown."""
    disable = quiet or total == 1 or not terminal.is_terminal
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True, disable=disable) as progress:
        task = progress.add_task("estimating", total=total)
        yield lambda: progress.advance(task)


def _unique_stems(images: Sequence[Path]) -> list[str]:
    """Names of the pictures; a number distinguishes images of the same name from different folders."""
    stems: dict[str, None] = {}
    for image in images:
        stem, number = image.stem, 2
        while stem in stems:
            stem, number = f"{image.stem}_{number}", number + 1
        stems[stem] = None
    return list(stems)


def _draw(image: Path, pose: PoseEstimate, skeleton: Sequence[tuple[int, int]], stem: Path) -> list[Path]:
    """Writes a picture per instance; returns the files."""
    from cape.drawing import draw_pose, read_image, write_image

    photograph = read_image(image)
    height, width = photograph.shape[:2]
    paths = []
    for index, instance in enumerate(pose.instances):
        number = f"_{index + 1}" if len(pose.instances) > 1 else ""
        path = stem.with_name(f"{stem.name}_pose{number}.png")
        whole = instance.box == Box(0, 0, width, height)
        picture = draw_pose(
            photograph,
            instance.keypoints,
            instance.names,
            skeleton=skeleton,
            scores=instance.scores,
            located=instance.located,
            box=None if whole else instance.box,
        )
        write_image(picture, path)
        paths.append(path)
    return paths


def _document(image: Path, pose: PoseEstimate, pictures: Sequence[Path]) -> dict[str, Any]:
    """An answer as JSON: coordinates in pixels, times in seconds."""
    provenance, timing = pose.provenance, pose.timing
    return {
        "image": str(image),
        "instances": [
            {
                "box": [instance.box.x, instance.box.y, instance.box.width, instance.box.height],
                "keypoints": [
                    {"name": name, "x": float(x), "y": float(y), "score": float(score), "located": bool(located)}
                    for name, (x, y), score, located in zip(
                        instance.names, instance.keypoints, instance.scores, instance.located, strict=True
                    )
                ],
            }
            for instance in pose.instances
        ],
        "provenance": {name: getattr(provenance, name) for name in provenance.__dataclass_fields__},
        "timing": {name: getattr(timing, name) for name in timing.__dataclass_fields__},
        "pictures": [str(picture) for picture in pictures],
    }


def _print_table(
    images: Sequence[Path], poses: Sequence[PoseEstimate | None], results: Sequence[dict[str, Any]]
) -> None:
    """Every keypoint of one image, or a row per image of several."""
    out = console()
    if len(images) == 1 and poses[0] is not None:
        for instance in poses[0].instances:
            table = Table("keypoint", "x", "y", "score", box=None)
            for name, (x, y), score, located in zip(
                instance.names, instance.keypoints, instance.scores, instance.located, strict=True
            ):
                row = (f"{x:.1f}", f"{y:.1f}", f"{score:.2f}") if located else ("-", "-", "not located")
                table.add_row(name, *row)
            out.print(table)
        _print_footer(out, poses[0], results[0])
        return
    table = Table("image", "instances", "located", "mean score", "server ms", "picture", box=None)
    for image, pose, result in zip(images, poses, results, strict=True):
        if pose is None:
            table.add_row(str(image), "failed")
            continue
        located = sum(int(instance.located.sum()) for instance in pose.instances)
        total = sum(len(instance.names) for instance in pose.instances)
        scores = [float(score) for i in pose.instances for score in i.scores[i.located]]
        mean = f"{sum(scores) / len(scores):.2f}" if scores else "-"
        pictures = ", ".join(result["pictures"])
        milliseconds = f"{pose.timing.total * 1000:.1f}"
        table.add_row(str(image), str(len(pose.instances)), f"{located} of {total}", mean, milliseconds, pictures)
    out.print(table)


def _print_footer(out: Console, pose: PoseEstimate, result: dict[str, Any]) -> None:
    used = " and ".join(pose.provenance.modalities) or "nothing"
    out.print(
        f"{pose.provenance.model}, from the support's {used}, {pose.timing.total * 1000:.1f} ms on the server",
        highlight=False,
    )
    for picture in result["pictures"]:
        out.print(f"wrote {picture}")
