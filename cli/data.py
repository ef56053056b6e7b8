"""`capeserve data`: inspects data sets."""

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


@data.command()
@click.option(
    "--mp100", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of MP-100's files."
)
@click.option("--coco", type=click.Path(exists=True, path_type=Path), help="Or a COCO keypoint file or folder.")
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the images.")
@click.option("--fold", type=click.IntRange(1, 5), default=1, show_default=True, help="Which of MP-100's splits.")
@click.option("--split", help="train, val or test of MP-100; of a COCO file what its images say.")
@click.option("--texts", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Texts file to start from.")
@click.option("--output", type=_FILE, required=True, help="Texts file to write: YAML, or JSON under .json.")
def texts(
    mp100: Path | None,
    coco: Path | None,
    images: Path | None,
    fold: int,
    split: str | None,
    texts: Path | None,
    output: Path,
) -> None:
    """Write a texts file to fill in for a data set, and print which names and descriptions are missing."""
    from cape.data.dataset import DatasetError
    from cape.data.sources import open_dataset, parse_data_source
    from cape.data.texts import texts_template, write_texts

    if (mp100 is None) == (coco is None):
        raise click.UsageError("give --mp100 or --coco")
    if mp100 is not None:
        source = {"kind": "mp100", "annotations": mp100, "images": images, "fold": fold, "split": split or "test"}
    else:
        source = {"kind": "coco", "annotations": coco, "images": images, "split": split}
    try:
        document, missing = texts_template(open_dataset(parse_data_source(source | {"texts": texts})))
        write_texts(document, output)
    except (DatasetError, OSError) as error:
        raise click.ClickException(str(error)) from None
    for line in missing:
        click.echo(f"missing: {line}")
    click.echo(f"{len(document)} categories, {len(missing)} of them with texts missing; wrote {output}")
