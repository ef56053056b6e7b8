"""`capeserve support`: registers, lists, shows and deletes supports on a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cape.annotations import read_support
from cape.coco import SkeletonBase, read_coco
from cape.coco_entries import parse_id
from cape.support import Modality, RegisteredSupport, SupportDefinition
from cape.terminal import printable
from cli.connection import Connection, connects
from cli.consoles import console

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_SKELETON_BASES: dict[str, SkeletonBase] = {"detect": "detect", "0": 0, "1": 1}

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def support() -> None:
    """Register, list, show and delete supports."""


@support.command()
@click.argument("files", nargs=-1, type=_FILE, metavar="[FILE]...")
@click.option("--coco", type=_FILE, help="Take the support from a COCO keypoint file instead.")
@click.option("--category", help="Category of the COCO file; needed where it has several.")
@click.option("--image-id", "image_ids", multiple=True, help="Take this image; repeatable.")
@click.option("--annotation-id", "annotation_ids", multiple=True, help="Or this annotation; repeatable.")
@click.option("--shots", type=click.IntRange(min=1), default=1, help="Or the N best labelled annotations.")
@click.option("--images", type=_FOLDER, help="Folder of the COCO file's images.  [default: its own]")
@click.option(
    "--skeleton-base",
    type=click.Choice(list(_SKELETON_BASES)),
    default="detect",
    show_default=True,
    help="Index of the first keypoint in the COCO file's skeletons.",
)
@click.option(
    "--modality",
    "modalities",
    type=click.Choice(["image", "text"]),
    multiple=True,
    help="Restrict models to this modality: image if the names are meaningless.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print the names alone, one per line.")
@_json_option
@connects
def create(
    connection: Connection,
    files: tuple[Path, ...],
    coco: Path | None,
    category: str | None,
    image_ids: tuple[str, ...],
    annotation_ids: tuple[str, ...],
    shots: int,
    images: Path | None,
    skeleton_base: str,
    modalities: tuple[Modality, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Register supports, from annotation files or from a COCO file, and print their names.

    Registering the same content again is harmless: it has the same name.
    """
    if bool(files) == (coco is not None):
        raise click.UsageError("give annotation files, or --coco FILE")
    definitions: list[tuple[Path, SupportDefinition]] = [(file, read_support(file)) for file in files]
    if coco is not None:
        coco_file = read_coco(coco, images)
        found = coco_file.support(
            category,
            shots=shots,
            image_ids=[parse_id(value) for value in image_ids],
            annotation_ids=[parse_id(value) for value in annotation_ids],
            skeleton_base=_SKELETON_BASES[skeleton_base],
        )
        definitions.append((coco, found))
        for note in coco_file.notes:
            click.echo(f"{coco}: {note}", err=True)
    created: list[dict[str, Any]] = []
    with connection.client() as client:
        for file, definition in definitions:
            if modalities:
                definition = replace(definition, modalities=modalities)
            registered = client.create_support(definition)
            created.append({"file": str(file), **_summary(registered), "already_existed": registered.already_existed})
            if quiet and not as_json:
                click.echo(registered.name)
            elif not as_json:
                note = " (was there already)" if registered.already_existed else ""
                click.echo(f"{registered.name}  {printable(registered.definition.category)}{note}")
    if as_json:
        click.echo(json.dumps(created, indent=2, ensure_ascii=False))


@support.command("list")
@_json_option
@connects
def list_(connection: Connection, as_json: bool) -> None:
    """List the supports of a server, oldest first."""
    with connection.client() as client:
        found = list(client.list_supports())
    if as_json:
        click.echo(json.dumps([_summary(registered) for registered in found], indent=2, ensure_ascii=False))
        return
    table = Table("name", "category", "keypoints", "examples", "created", box=None)
    for registered in found:
        definition = registered.definition
        created = f"{registered.create_time:%Y-%m-%d %H:%M:%S}"
        counts = str(len(definition.keypoints)), str(len(definition.examples))
        table.add_row(registered.name, printable(definition.category), *counts, created)
    console().print(table)


@support.command()
@click.argument("name")
@click.option("--output", type=_FOLDER, help="Write a picture of each example with its keypoints into this folder.")
@_json_option
@connects
def show(connection: Connection, name: str, output: Path | None, as_json: bool) -> None:
    """Show a support: its keypoints, skeleton and examples."""
    with connection.client() as client:
        registered = client.get_support(name, images=output is not None)
    definition = registered.definition
    pictures = [] if output is None else list(_write_pictures(registered, output))
    if as_json:
        document = _summary(registered) | {
            "skeleton": [list(edge) for edge in definition.skeleton],
            "modalities": list(definition.modalities),
            "pictures": [str(picture) for picture in pictures],
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    out = console()
    out.print(
        f"{registered.name}  {printable(definition.category)}, created {registered.create_time:%Y-%m-%d %H:%M:%S}"
    )
    table = Table("", "keypoint", "description", "visible in", "joined to", box=None)
    for index, keypoint in enumerate(definition.keypoints):
        seen = sum(bool(example.visible[index]) for example in definition.examples)
        joined = [start + end - index for start, end in definition.skeleton if index in (start, end)]
        table.add_row(
            str(index),
            printable(keypoint.name),
            printable(keypoint.description),
            f"{seen} of {len(definition.examples)}",
            ", ".join(printable(definition.keypoints[other].name) for other in joined),
        )
    out.print(table)
    for picture in pictures:
        out.print(f"wrote {picture}")


@support.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@connects
def delete(connection: Connection, names: tuple[str, ...]) -> None:
    """Delete supports, and what the server computed from them."""
    with connection.client() as client:
        for name in names:
            client.delete_support(name)
            click.echo(f"deleted {name}")


def _summary(registered: RegisteredSupport) -> dict[str, Any]:
    definition = registered.definition
    return {
        "name": registered.name,
        "category": definition.category,
        "keypoints": [
            {"name": keypoint.name, "description": keypoint.description} for keypoint in definition.keypoints
        ],
        "examples": len(definition.examples),
        "create_time": registered.create_time.isoformat(),
    }


def _write_pictures(registered: RegisteredSupport, output: Path) -> Iterator[Path]:
    """Draws each example; yields the files."""
    from cape.drawing import draw_pose, read_image, write_image

    output.mkdir(parents=True, exist_ok=True)
    definition = registered.definition
    for index, example in enumerate(definition.examples):
        if example.image is None:
            continue
        picture = draw_pose(
            read_image(example.image),
            example.keypoints,
            definition.names,
            skeleton=definition.skeleton,
            located=example.visible,
            box=example.box,
        )
        path = output / f"{registered.name.rpartition('/')[2]}_{index + 1}.png"
        write_image(picture, path)
        yield path
