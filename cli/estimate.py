"""`capeserve estimate`: finds the keypoints of a support in images, and draws them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cape.annotations import read_support
from cape.client import Client, PoseEstimate, Query
from cape.client.errors import CapeError, InvalidRequestError
from cape.support import Box, SupportDefinition
from cli.connection import Connection, connects
from cli.consoles import console


def _parse_boxes(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Box, ...]:
    boxes = []
    for value in values:
        try:
            x, y, width, height = (float(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{value!r} is not x,y,width,height in pixels") from None
        if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
            raise click.BadParameter(f"{value!r}: width and height must be more than 0")
        boxes.append(Box(x, y, width, height))
    return tuple(boxes)


@click.command()
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="IMAGE..."
)
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
@click.option(
    "--box",
    "boxes",
    metavar="X,Y,W,H",
    callback=_parse_boxes,
    multiple=True,
    help="The object, in pixels; repeatable.  [default: the whole image]",
)
@click.option("--find-box", is_flag=True, help="Without --box: look for the object in the image first. Slower.")
@click.option("--model", default="", help="models/{system}.  [default: the server's]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--follow",
    is_flag=True,
    help="Print keypoints as they are found, if the model finds them one by one (capellm).",
)
@connects
def estimate(
    connection: Connection,
    images: tuple[Path, ...],
    support_source: str,
    output: Path | None,
    boxes: tuple[Box, ...],
    find_box: bool,
    model: str,
    as_json: bool,
    follow: bool,
) -> None:
    """Find the keypoints of a support in images."""
    errors = console(stderr=True)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    stems = _unique_stems(images)
    results: list[dict[str, Any]] = [{} for _ in images]
    poses: list[PoseEstimate | None] = [None] * len(images)
    with connection.client() as client:
        sent, skeleton = _resolve_support(client, support_source)
        queries = [Query(image, sent, boxes, model, partial_answers=follow, find_box=find_box) for image in images]
        with _progress(errors, len(images)) as advance:
            for index, answer in _answers(client, queries):
                if isinstance(answer, PoseEstimate) and answer.partial:
                    _say(errors, images[index], answer)
                    continue
                if isinstance(answer, CapeError):
                    results[index] = {"image": str(images[index]), "error": str(answer)}
                else:
                    poses[index] = answer
                    pictures = [] if output is None else _draw(images[index], answer, skeleton, output / stems[index])
                    results[index] = _document(images[index], answer, pictures)
                advance()
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        _print_table(images, poses, results)
    failed = [result for result in results if "error" in result]
    for result in failed:
        errors.print(f"Error: {result['image']}: {result['error']}")
    if failed:
        raise SystemExit(1)


def _resolve_support(client: Client, source: str) -> tuple[str | SupportDefinition, tuple[tuple[int, int], ...]]:
    """Returns the support to send, and its skeleton."""
    if Path(source).is_file():
        definition = read_support(source)
        return definition, definition.skeleton
    if not source.startswith("supports/"):
        raise click.UsageError(f"--support: {source} is no file, and names of supports start with supports/")
    return source, client.get_support(source, images=False).definition.skeleton


def _answers(client: Client, queries: Sequence[Query]) -> Iterator[tuple[int, PoseEstimate | CapeError]]:
    """Sends one image as a call with retries, several images or partial answers as a stream. Raises errors that do not
    concern a single image.
    """
    if len(queries) > 1 or queries[0].partial_answers:
        yield from client.estimate_stream(queries)
        return
    query = queries[0]
    try:
        yield 0, client.estimate(query.image, query.support, boxes=query.boxes, model=query.model)
    except InvalidRequestError as error:
        yield 0, error


def _say(terminal: Console, image: Path, part: PoseEstimate) -> None:
    """Prints a line for each newly found keypoint."""
    for number, instance in enumerate(part.instances, start=1):
        for name, (x, y), score in zip(instance.names, instance.keypoints, instance.scores, strict=True):
            terminal.print(f"{image.name}, {number}: {name} at {x:.1f}, {y:.1f}, score {score:.2f}", markup=False)


@contextmanager
def _progress(terminal: Console, total: int) -> Iterator[Any]:
    """A progress bar for several images on a terminal; otherwise nothing is shown."""
    with Progress(console=terminal, transient=True, disable=total == 1 or not terminal.is_terminal) as progress:
        task = progress.add_task("estimating", total=total)
        yield lambda: progress.advance(task)


def _unique_stems(images: Sequence[Path]) -> list[str]:
    """Names of the pictures; a number distinguishes images of the same name from different folders."""
    stems: list[str] = []
    for image in images:
        stem, number = image.stem, 2
        while stem in stems:
            stem, number = f"{image.stem}_{number}", number + 1
        stems.append(stem)
    return stems


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
