"""`capeserve evaluate`: measures a model on test pairs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table as ConsoleTable

from cape.client import ConnectionOptions
from cape.client.errors import CapeError
from cape.data.dataset import DatasetError, KeypointDataset
from cape.data.sources import open_dataset
from cape.evaluation.baselines import BASELINES, CentreEstimator, MeanEstimator
from cape.evaluation.configuration import (
    EvaluationConfiguration,
    EvaluationConfigurationError,
    read_configuration,
)
from cape.evaluation.estimator import EstimationError, Estimator
from cape.evaluation.evaluation import Evaluation, NothingScoredError
from cape.evaluation.evaluation import evaluate as run_evaluation
from cape.evaluation.report import RELIABILITY_FILE, document, markdown, notes, tables
from cape.evaluation.variations import VARIATIONS
from cape.modalities import MissingModalityError
from cli.connection import secures
from cli.consoles import console, step_progress

if TYPE_CHECKING:
    import torch

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--config", type=_FILE, help="YAML file; flags override it.")
@click.option(
    "--checkpoint", type=click.Path(exists=True, path_type=Path), help="Checkpoint folder or .pth file, in PyTorch."
)
@click.option("--repository", type=_FOLDER, help="Exported repository, in ONNX Runtime.")
@click.option("--target", metavar="HOST:PORT", help="Running service, over gRPC.")
@click.option("--baseline", type=click.Choice(BASELINES), help="Baseline that ignores the image.")
@click.option("--model", help="models/{system} of a repository or service.  [default: its own]")
@click.option("--data", type=click.Choice(["coco", "mp100", "synthetic"]), help="Kind of data.  [default: coco]")
@click.option(
    "--coco", type=click.Path(exists=True, path_type=Path), help="COCO keypoint file, or a folder's annotations.json."
)
@click.option("--mp100", type=_FOLDER, help="Folder of MP-100's JSON files.")
@click.option("--images", type=_FOLDER, help="Folder of the images.")
@click.option("--split", help="Part of the data: of a COCO file what its images say; else train, val or test.")
@click.option("--fold", type=click.IntRange(1, 5), help="Which of MP-100's five splits.")
@click.option("--category", "categories", multiple=True, help="Only this category of a COCO file; repeatable.")
@click.option(
    "--skeleton-base",
    type=click.Choice(["detect", "0", "1"]),
    help="Index of the first keypoint in the skeletons of a COCO file.  [default: detect]",
)
@click.option("--texts", type=_FILE, help="Texts file: names, descriptions and paraphrases by category.")
@click.option(
    "--scoring",
    type=click.Choice(["common", "published"]),
    help="Pairs without a common visible keypoint: left out, or counted as 0 as published.  [default: common]",
)
@click.option("--shots", type=int, help="Support images per episode; 0: queries only.  [default: 1]")
@click.option("--episodes", type=int, help="Episodes per category.  [default: 200]")
@click.option("--queries", type=int, help="Queries per episode.  [default: 15]")
@click.option("--seed", type=int, help="Seed of the pairs.  [default: 1]")
@click.option(
    "--variation",
    "variations",
    multiple=True,
    type=click.Choice(VARIATIONS),
    help="Also measure the same pairs with supports changed like this; repeatable.",
)
@click.option("--device", default="", help="Where a checkpoint runs: cpu, cuda.  [default: cuda if there is one]")
@click.option("--text-encoder", type=_FOLDER, help="Hugging Face folder of the text encoder, if a .pth file has none.")
@click.option("--tokenizer", type=_FILE, help="tokenizer.json, if the checkpoint has none.")
@click.option(
    "--readout",
    type=click.Choice(["greedy", "expectation"]),
    help="CapeLLM checkpoints: the most probable digits, or the mean over digits.  [default: greedy]",
)
@click.option(
    "--vllm",
    metavar="URL",
    help="vLLM server that runs a CapeLLM's language model; --checkpoint is then the folder of its prompter.",
)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Write JSON, Markdown and pictures.")
@click.option("--pictures", type=click.IntRange(0), default=0, help="Number of best and of worst predictions to draw.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@secures
def evaluate(
    options: ConnectionOptions,
    config: Path | None,
    output: Path | None,
    pictures: int,
    as_json: bool,
    device: str,
    text_encoder: Path | None,
    tokenizer: Path | None,
    **flags: Any,
) -> None:
    """Measure how well a model finds keypoints: PCK, NME, AUC, EPE, and calibration of scores.

    Predictions come from a checkpoint, an exported repository or a running service, on the same test pairs and by
    the same code; docs/evaluation.md defines every number.
    """
    if pictures and output is None:
        raise click.UsageError("--pictures needs --output, the folder to write them to")
    try:
        configuration = read_configuration(config, _changes(flags))
        dataset = open_dataset(configuration.data)
        with (
            _estimator(configuration, dataset, device, text_encoder, tokenizer, options) as estimator,
            step_progress() as progress,
        ):
            evaluation = run_evaluation(dataset, estimator, configuration, _in_tenths(progress))
        written = _write(evaluation, dataset, output, pictures) if output is not None else []
    except (EvaluationConfigurationError, DatasetError, EstimationError, MissingModalityError) as error:
        raise click.ClickException(str(error)) from None
    except (NothingScoredError, CapeError, OSError) as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    if as_json:
        click.echo(json.dumps(document(evaluation), indent=2, ensure_ascii=False))
        return
    _print(evaluation, written)


def _changes(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that are given, as the configuration names them."""
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    kinds = {kind for kind in ("coco", "mp100") if kind in given} | {given.get("data", "")} - {""}
    if len(kinds) > 1:
        raise click.UsageError(f"{' and '.join(sorted(kinds))}: one kind of data at a time")
    data: dict[str, Any] = {
        field: given.pop(flag)
        for flag, field in (
            ("images", "images"),
            ("split", "split"),
            ("fold", "fold"),
            ("categories", "categories"),
            ("texts", "texts"),
        )
        if flag in given
    }
    if "skeleton_base" in given:
        base = given.pop("skeleton_base")
        data["skeleton_base"] = base if base == "detect" else int(base)
    if "data" in given:
        data["kind"] = given.pop("data")
    for kind in ("coco", "mp100"):
        if kind in given:
            data |= {"kind": kind, "annotations": given.pop(kind)}
    return {**given, "data": data} if data else given


@contextlib.contextmanager
def _estimator(
    configuration: EvaluationConfiguration,
    dataset: KeypointDataset,
    device: str,
    text_encoder: Path | None,
    tokenizer: Path | None,
    options: ConnectionOptions,
) -> Iterator[Estimator]:
    """Opens the source of predictions, and closes it on exit."""
    estimator: Estimator
    if configuration.checkpoint is not None:
        estimator = _checkpoint_estimator(configuration, configuration.checkpoint, device, text_encoder, tokenizer)
    elif configuration.repository is not None:
        from benchmarks.harness.exported import ExportedEstimator

        estimator = ExportedEstimator(configuration.repository, configuration.model.removeprefix("models/"))
    elif configuration.baseline is not None:
        estimator = CentreEstimator() if configuration.baseline == "centre" else MeanEstimator(dataset)
    else:
        from cape.evaluation.service import ServiceEstimator

        assert configuration.target is not None, "one of the four is set"
        estimator = ServiceEstimator(configuration.target, options, configuration.model)
    with contextlib.closing(estimator):
        yield estimator


def _checkpoint_estimator(
    configuration: EvaluationConfiguration, path: Path, device: str, text_encoder: Path | None, tokenizer: Path | None
) -> Estimator:
    try:
        import torch

        from cape.capellm.configuration import is_capellm
        from cape.evaluation.checkpoint import CheckpointEstimator
        from cli.checkpoints import load_any
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[export]'") from None
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if is_capellm(path):
            return _capellm_estimator(path, chosen, configuration)
        return CheckpointEstimator(load_any(path, text_encoder, tokenizer), chosen)
    except RuntimeError as error:
        raise click.BadParameter(str(error).splitlines()[0], param_hint="--device") from None


def _capellm_estimator(path: Path, device: torch.device, configuration: EvaluationConfiguration) -> Estimator:
    from cape.checkpoints import CheckpointError

    try:
        from cape.evaluation.capellm import CapeLlmEstimator, checkpoint_estimator
        from cape.models.capellm.checkpoint import load_capellm
        from cape.models.capellm.prompter import load_prompter
        from cape.models.capellm.vllm import VllmPredictor
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[llm]'") from None
    try:
        if configuration.vllm is None:
            return checkpoint_estimator(load_capellm(path), device, configuration.readout)
        prompter, tokenizer = load_prompter(path)
        predictor = VllmPredictor(prompter, tokenizer, configuration.vllm, device=device)
        engine = f"vLLM at {configuration.vllm}"
        return CapeLlmEstimator(predictor, prompter.configuration, f"{path.name}: ", engine)
    except CheckpointError as error:
        raise click.ClickException(str(error)) from None


def _in_tenths(report: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """Reports all progress on a terminal; otherwise one line per 10 %."""
    if console(stderr=True).is_terminal:
        return report
    last: list[tuple[str, int]] = []

    def tenths(step: str, done: int, total: int) -> None:
        place = (step, 10 * done // max(total, 1))
        if not last or last[-1] != place:
            last[:] = [place]
            report(step, done, total)

    return tenths


def _print(evaluation: Evaluation, written: list[Path]) -> None:
    out = console()
    out.print(f"{evaluation.estimator}, on {evaluation.data}")
    for note in notes(evaluation):
        out.print(note)
    for table in tables(evaluation):
        shown = ConsoleTable(title=table.title, title_justify="left", box=None)
        for index, name in enumerate(table.header):
            shown.add_column(name, justify="left" if index in table.texts else "right")
        for row in table.rows:
            shown.add_row(*row)
        out.print()
        out.print(shown)
    for path in written:
        out.print(f"wrote {path}")


def _write(evaluation: Evaluation, dataset: KeypointDataset, output: Path, pictures: int) -> list[Path]:
    """Writes the report's files; returns them."""
    from cape.drawing import write_image
    from cape.evaluation.pictures import prediction_pictures
    from cape.evaluation.reliability import reliability_diagram

    output.mkdir(parents=True, exist_ok=True)
    drawn = []
    written = [output / "evaluation.json", output / "evaluation.md", output / RELIABILITY_FILE]
    write_image(reliability_diagram(evaluation.calibration), written[2])
    for title, name, picture in prediction_pictures(evaluation.run.results, dataset, pictures):
        write_image(picture, output / name)
        drawn.append((title, name))
        written.append(output / name)
    text = json.dumps(document(evaluation), indent=2, ensure_ascii=False)
    written[0].write_text(text + "\n", encoding="utf-8")
    written[1].write_text(markdown(evaluation, drawn), encoding="utf-8")
    return written
