"""`capeserve explain`: similarity maps and attention of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cape.annotations import AnnotationError, read_support
from cape.support import Box, SupportDefinition
from cli.boxes import box_option
from cli.checkpoints import load_any

if TYPE_CHECKING:
    from cape.predictor import Prediction

MAX_KEYPOINTS = 6
"""Default number of columns of a figure."""

UNTRAINED = "The weights of this checkpoint are random: the maps show how the figure reads, and nothing else."

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("images", nargs=-1, required=True, type=_FILE, metavar="IMAGE...")
@click.option(
    "--checkpoint",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder with config.json and model.safetensors, or a published .pth file.",
)
@click.option("--support", "support_file", required=True, type=_FILE, help="Annotation file of the support.")
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Write IMAGE_explained.png for each image into this folder.",
)
@click.option(
    "--keypoints", metavar="NAME,...", help=f"Show maps of these keypoints.  [default: up to {MAX_KEYPOINTS} apart]"
)
@box_option
@click.option(
    "--text-encoder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Hugging Face folder of the text encoder, for a .pth file without one.",
)
@click.option("--tokenizer", type=_FILE, help="tokenizer.json, for a checkpoint without one.")
def explain(
    images: tuple[Path, ...],
    checkpoint: Path,
    support_file: Path,
    output: Path,
    keypoints: str | None,
    boxes: tuple[Box, ...],
    text_encoder: Path | None,
    tokenizer: Path | None,
) -> None:
    """Draw similarity maps and attention behind a prediction.

    A figure for each image (and each box): the support with its skeleton, the query with the prediction, and for
    each keypoint its similarity map and the cross-attention of the last decoder layer. Runs in PyTorch, no server
    is needed.
    """
    try:
        from cape.drawing import read_image, write_image
        from cape.explanation import explanation_figure
        from cape.modalities import MissingModalityError
        from cape.predictor import PredictionError, Predictor
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[export]'") from None

    try:
        support = read_support(support_file)
        wanted = _indices(support, keypoints)
        loaded = load_any(checkpoint, text_encoder, tokenizer)
        predictor = Predictor(loaded)
        encoded = predictor.encode_support(support)
        output.mkdir(parents=True, exist_ok=True)
        for image in images:
            photograph = read_image(image)
            predictions = predictor.estimate(photograph, encoded, boxes)
            for number, prediction in enumerate(predictions, start=1):
                figure = explanation_figure(
                    photograph,
                    support,
                    prediction,
                    wanted or _apart(prediction),
                    title=f"{image.name}, {predictor.configuration.system}, {predictor.configuration.backbone.name}",
                    banner=None if predictor.configuration.trained else UNTRAINED,
                )
                path = output / f"{image.stem}_explained{f'_{number}' if len(predictions) > 1 else ''}.png"
                write_image(figure, path)
                click.echo(f"wrote {path}")
    except (AnnotationError, MissingModalityError, PredictionError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _indices(support: SupportDefinition, names: str | None) -> list[int]:
    """Indices of the named keypoints; empty if none is named."""
    indices = []
    for name in (part.strip() for part in (names or "").split(",") if part.strip()):
        if name not in support.names:
            raise click.BadParameter(
                f"there is no {name!r}; there are {', '.join(support.names)}", param_hint="--keypoints"
            )
        indices.append(support.names.index(name))
    return indices


def _apart(prediction: Prediction) -> Sequence[int]:
    """Keypoints to show: some of the support's that lie apart in the prediction."""
    from cape.explanation import spread_out

    located = prediction.located.nonzero()[0]
    if len(located) == 0:
        return [0]
    return [int(located[index]) for index in spread_out(prediction.keypoints[located], MAX_KEYPOINTS)]
