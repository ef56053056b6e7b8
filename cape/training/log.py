"""What a run writes down: CSV files and TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter


class TrainingLog:
    """`train.csv`, `validation.csv` and TensorBoard events in a folder.

    Args:
        folder: of the run.
        step: that the run starts from; rows of later steps, from before a kill, are dropped.
        tensorboard: write events too.
    """

    def __init__(self, folder: Path, step: int = 0, *, tensorboard: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        for name in ("train", "validation"):
            _cut(folder / f"{name}.csv", step)
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1) if tensorboard else None

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a row.

        Args:
            name: 'train' or 'validation'.
            step: optimiser steps taken.
            values: the columns, the same in every row of a run.
        """
        path = self._folder / f"{name}.csv"
        fresh = not path.exists() or path.stat().st_size == 0
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", *values])
            writer.writerow([step, *(f"{value:.6g}" for value in values.values())])
        if self._writer is not None:
            for key, value in values.items():
                self._writer.add_scalar(f"{name}/{key}", value, step)
            self._writer.flush()


def _cut(path: Path, step: int) -> None:
    """Drops rows of steps later than `step`; a row that a kill cut short goes as well."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [row for row in rows[1:] if len(row) == len(rows[0]) and row[0].isdigit() and int(row[0]) <= step]
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*rows[:1], *kept])
    partial.replace(path)
