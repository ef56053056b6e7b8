"""Tables for terminals and Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

NONE = "–"
"""Shown for a missing figure."""


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table.

    Attributes:
        title: with the unit.
        header: names of the columns; all but the first hold numbers.
        rows: each as long as the header.
        notes: one line each.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def markdown_table(table: ReportTable) -> str:
    """A table as a section of a Markdown document."""
    align = "|---|" + "--:|" * (len(table.header) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in table.rows]
    body = "\n".join(("| " + " | ".join(table.header) + " |", align, *lines))
    return f"## {table.title}\n\n{body}\n\n" + "\n".join(f"- {note}" for note in table.notes) + "\n"


def terminal_table(table: ReportTable) -> Table:
    """A table for a terminal, without its notes."""
    shown = Table(title=table.title, title_justify="left", box=None)
    for index, name in enumerate(table.header):
        shown.add_column(name, justify="right" if index else "left")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def milliseconds(seconds: float | None) -> str:
    """A time as text: milliseconds with two decimals."""
    return NONE if seconds is None else f"{1000 * seconds:.2f}"
