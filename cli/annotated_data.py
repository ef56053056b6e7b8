"""Options of commands that evaluate on annotated images: the data, and the pairs drawn from it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_PATH = click.Path(exists=True, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def annotated_data(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --coco, --images, --split and --category; the command gets `data`, as `parse_data_source` takes it."""

    @click.option("--coco", type=_PATH, help="COCO keypoint file or folder.  [default: procedural images]")
    @click.option("--images", type=_FOLDER, help="Folder of its images.")
    @click.option("--split", help="Split of the data.  [default: test for procedural images, all of a COCO file]")
    @click.option("--category", "categories", multiple=True, help="Only this category of a COCO file; repeatable.")
    @functools.wraps(command)
    def with_data(
        *, coco: Path | None, images: Path | None, split: str | None, categories: tuple[str, ...], **arguments: Any
    ) -> Any:
        if coco is not None:
            source = {"kind": "coco", "annotations": coco, "images": images, "split": split, "categories": categories}
        elif images is not None or categories:
            raise click.UsageError("--images and --category belong to --coco")
        else:
            source = {"kind": "synthetic", "split": split or "test"}
        return command(data=source, **arguments)

    return with_data


def drawn_pairs(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --episodes, --queries and --seed."""
    for option in (
        click.option("--seed", default=1, show_default=True, help="Of what is drawn."),
        click.option("--queries", type=click.IntRange(min=1), default=8, show_default=True, help="Of an episode."),
        click.option("--episodes", type=click.IntRange(min=1), default=2, show_default=True, help="Of a category."),
    ):
        command = option(command)
    return command
