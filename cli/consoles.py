"""Consoles and progress bars of the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def console(*, stderr: bool = False) -> Console:
    """A console for tables and unformatted text.

    Outside a terminal lines are not wrapped, so that files and other programs get whole lines.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 1000
    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=True, width=width)


@contextmanager
def step_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Shows progress on the error stream: a bar on a terminal, elsewhere one line per step.

    Yields:
        A callback that takes the current activity, steps done and total steps.
    """
    errors = console(stderr=True)
    if not errors.is_terminal:
        yield lambda step, done, total: errors.print(f"[{done}/{total}] {step}")
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda step, done, total: progress.update(task, description=step, completed=done, total=total)
