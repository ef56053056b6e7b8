"""`capeserve train`: trains a checkpoint from a configuration."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cli.consoles import console

if TYPE_CHECKING:
    from cape.training.loop import StepReport
    from cape.training.run import Reporting

LINES_APART = 20.0
"""Seconds between lines of progress without a terminal."""


@click.command()
@click.option(
    "--config",
    "configuration",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The run's configuration (YAML); configurations/training has some.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for checkpoints, state and log.  [default: build/training/NAME OF THE CONFIGURATION]",
)
@click.option("--resume", is_flag=True, help="Resume from the state in the output folder.")
@click.option(
    "--data",
    "data",
    multiple=True,
    metavar="NAME=PATH",
    help="Value of ${NAME} in the configuration; overrides the environment variable of that name.",
)
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Instead of the configuration's.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads per process.  [default: all cores]")
def train(
    configuration: Path,
    output: Path | None,
    resume: bool,
    data: tuple[str, ...],
    max_minutes: float | None,
    threads: int | None,
) -> None:
    """Trains a model on episodes: a support set, a query, and where its keypoints are.

    OUTPUT/best is the checkpoint with the best validation score, OUTPUT/last the latest; both can be exported,
    explained and evaluated. An interrupted run (Ctrl-C, SIGTERM) saves its state first; a killed one
    resumes from the last saved state with --resume. Several devices: accelerate launch -m cli.main train …
    """
    try:
        import torch

        from cape.checkpoints import CheckpointError
        from cape.data.dataset import DatasetError
        from cape.pretrained.packages import PretrainedError
        from cape.published.key_names import PublishedCheckpointError
        from cape.training.configuration import TrainingConfigurationError
        from cape.training.kinds import TokenizerError, read_run
        from cape.training.state import TrainingStateError
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[train]'") from None

    if threads is not None:
        torch.set_num_threads(threads)
    output = output or Path("build/training") / configuration.stem
    errors = console(stderr=True)
    try:
        run = read_run(configuration, _variables(data), max_minutes)
        with _reporting(errors) as reporting:
            steps = run(output, reporting, resume=resume)
    except (
        CheckpointError,
        DatasetError,
        FloatingPointError,
        PublishedCheckpointError,
        TokenizerError,
        PretrainedError,
        TrainingConfigurationError,
        TrainingStateError,
    ) as error:
        raise click.ClickException(str(error)) from None
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[llm]'") from None
    errors.print(f"Stopped after step {steps}. Checkpoints, state and log are in {output}")


def _variables(data: tuple[str, ...]) -> dict[str, str]:
    variables = {}
    for entry in data:
        name, separator, value = entry.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{entry!r} is not NAME=PATH", param_hint="--data")
        variables[name] = value
    return variables


@contextmanager
def _reporting(errors: Console) -> Iterator[Reporting]:
    """Shows a run: a bar and a table of scores on a terminal, elsewhere a line now and then."""
    from cape.training.run import Reporting

    with _Interruption() as interruption, _bar(errors) as bar:
        screen = _Screen(errors, bar)
        yield Reporting(
            note=errors.print,
            preparing=screen.preparing,
            trained=screen.trained,
            stopped=lambda: interruption.asked,
        )


@contextmanager
def _bar(errors: Console) -> Iterator[Progress | None]:
    if not errors.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as progress:
        yield progress


class _Screen:
    """Where a run stands, on a bar or in lines."""

    def __init__(self, errors: Console, bar: Progress | None) -> None:
        self._errors = errors
        self._bar = bar
        self._task = bar.add_task("", total=1.0) if bar is not None else None
        self._printed = 0.0

    def preparing(self, step: str, done: int, total: int) -> None:
        self._show(step, done / max(total, 1), f"[{done}/{total}] {step}", done in (0, total))

    def trained(self, report: StepReport) -> None:
        if report.scores:
            self._errors.print(_score_table(report))
            return
        text = f"step {report.step}  loss {report.loss:.4f}  {report.pairs_per_second:.1f} pairs/s"
        self._show(text, report.progress, f"[{report.progress:.1%}] {text}", False)

    def _show(self, text: str, share: float, line: str, always: bool) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text, completed=share)
        elif always or time.monotonic() - self._printed >= LINES_APART:
            self._printed = time.monotonic()
            self._errors.print(line)


def _score_table(report: StepReport) -> Table:
    """Validation scores in per cent."""
    table = Table(title=f"Validation at step {report.step}")
    table.add_column("held-out pairs of")
    for heading in ("pairs", "PCK@.2", "PCK@.05"):
        table.add_column(heading, justify="right")
    for name, scores in report.scores.items():
        table.add_row(name, str(scores.pairs), f"{100 * scores.pck_at(0.2):.1f}", f"{100 * scores.pck_at(0.05):.1f}")
    return table


class _Interruption:
    """The first Ctrl-C or SIGTERM asks the run to end after its step; the second ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
