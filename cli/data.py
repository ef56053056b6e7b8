"""`capeserve data`: shows what a data set holds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cape.data.synthetic.catalogue import Split

_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.group()
def data() -> None:
    """Look at data to train and evaluate on."""


@data.command()
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="train",
    show_default=True,
    help="Whose categories; no category is in two splits.",
)
@click.option("--output", type=_FILE, required=True, help="The picture to write: PNG, JPEG or WebP.")
@click.option(
    "--objects", type=click.IntRange(1, 12), default=4, show_default=True, help="Objects to show of each category."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which set of pictures.")
@click.option("--category", "names", multiple=True, help="Show only this category; repeatable.  [default: all]")
def preview(split: Split, output: Path, objects: int, seed: int, names: tuple[str, ...]) -> None:
    """Draw a contact sheet of the procedural data set and print how fast its pictures were made."""
    from cape.data.synthetic import SyntheticDataset
    from cape.data.synthetic.contact_sheet import contact_sheet
    from cape.drawing import write_image

    dataset = SyntheticDataset(split, objects_per_category=objects, seed=seed)
    known = [category.name for category in dataset.categories]
    for name in names:
        if name not in known:
            raise click.UsageError(f"{dataset.name} has no category {name!r}; it has {', '.join(known)}")
    chosen = [index for index, name in enumerate(known) if not names or name in names]
    start = time.perf_counter()
    rows = [
        (dataset.categories[index], [dataset.load(object_id) for object_id in dataset.objects(index)])
        for index in chosen
    ]
    seconds = time.perf_counter() - start
    try:
        write_image(contact_sheet(rows), output)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{output}: {error}") from None
    click.echo(
        f"{dataset.name}: {len(rows)} categories, {objects} of each, "
        f"drawn at {len(rows) * objects / seconds:.0f} images/s; wrote {output}"
    )
