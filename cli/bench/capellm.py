"""`capeserve bench capellm`: the gain of a shared image prefix and of constrained decoding."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from cli.consoles import console


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A CapeLLM.  [default: random weights: DINOv2 ViT-S/14 and a Llama of eight layers]",
)
@click.option("--keypoints", "counts", multiple=True, type=click.IntRange(1, 100), default=(5, 17, 68))
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Of each way and count.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for JSON and Markdown.")
@click.option("--name", default="capellm", show_default=True, help="Name of those files.")
def capellm(checkpoint: Path | None, counts: tuple[int, ...], runs: int, output: Path | None, name: str) -> None:
    """Measure CapeLLM's decoding over a shared prefix against one prompt per keypoint, as in the public code."""
    try:
        from benchmarks.capellm.measurement import HEADER, compare, rows, stand_in, write_results
        from cape.checkpoints import CheckpointError
        from cape.models.capellm.checkpoint import load_capellm
        from cape.models.capellm.predictor import CapeLlmPredictor
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[llm]'") from None

    try:
        predictor = stand_in() if checkpoint is None else CapeLlmPredictor(*load_capellm(checkpoint)[:2])
    except CheckpointError as error:
        raise click.ClickException(str(error)) from None
    if predictor.grammar is None:
        raise click.ClickException(f"{checkpoint}: answers with coordinate tokens, so there is nothing to decode")
    errors = console(stderr=True)
    found = compare(predictor, counts, runs, errors.print)
    out = console()
    shown = Table(title="CapeLLM: time in the language model", title_justify="left", box=None)
    for index, heading in enumerate(HEADER):
        shown.add_column(heading, justify="left" if index == 1 else "right")
    for row in rows(found):
        shown.add_row(*row)
    out.print(shown)
    if output is not None:
        configuration = predictor.model.configuration
        parameters = sum(p.numel() for p in predictor.model.language.parameters()) / 1e6
        weights = "trained" if configuration.trained else "random weights"
        about = (
            f"{configuration.vision.tokens} image tokens ({configuration.vision.name}), "
            f"{configuration.language.kind} of {parameters:.1f} M parameters, {weights}"
        )
        asked = "".join(f" --keypoints {count}" for count in counts)
        command = f"capeserve bench capellm{' --checkpoint CHECKPOINT' if checkpoint else ''}{asked} --runs {runs}"
        for path in write_results(output, name, found, about, command):
            out.print(f"wrote {path}")
