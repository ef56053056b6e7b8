"""docs/reference.md names every command, benchmark, setting and extra, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from cli import bench, main
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def names(section: str, column: int = 0) -> set[str]:
    """Code words in a column of a section's table."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in body.splitlines() if line.startswith("| ") and "…" not in line]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row[column])}


def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.mark.parametrize(
    ("documented", "existing"),
    [
        (names("Commands"), set(main.COMMANDS)),
        (names("Benchmarks"), set(bench.COMMANDS)),
        (names("Settings of the server"), set(Settings.model_fields)),
        (names("Extras") | {"serve-base", "models"}, extras()),
    ],
    ids=["commands", "benchmarks", "settings", "extras"],
)
def test_the_reference_names_what_there_is(documented: set[str], existing: set[str]) -> None:
    assert documented == existing
