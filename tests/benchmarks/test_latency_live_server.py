"""The latency table says what was measured."""

from __future__ import annotations

import pytest

from benchmarks.harness.machine import describe_machine
from benchmarks.latency.live_server import STAGES, Latency, latency_markdown, latency_rows
from cape.client import PaperFigures

LATENCY = Latency(
    requests=20,
    warm=dict.fromkeys(STAGES, 0.002) | {"total": 0.020},
    cold=dict.fromkeys(STAGES, 0.004) | {"total": 0.100},
)


def test_rows_are_milliseconds_and_ratios_to_the_paper() -> None:
    rows = {row[0]: row[1:] for row in latency_rows(LATENCY, PaperFigures(time=0.06135, frames_per_second=16.3))}
    assert rows["total on the server"] == ("20.00", "100.00", "61.35")
    assert rows["image backbone"] == ("2.00", "4.00", "")
    assert rows["queries per second, one caller"] == ("50.00", "10.00", "16.30")
    assert rows["times the paper's speed"] == ("3.07", "0.61", "1.00")


def test_a_system_without_a_row_in_the_paper_has_no_ratio() -> None:
    labels = [row[0] for row in latency_rows(LATENCY, None)]
    assert "times the paper's speed" not in labels
    assert len(labels) == len(STAGES) + 1


def test_the_markdown_holds_table_and_notes() -> None:
    text = latency_markdown(LATENCY, None, ["a note"])
    assert "of 20 requests" in text
    assert text.rstrip().endswith("- a note")
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_the_machine_is_described_with_its_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert describe_machine().startswith("3 × ")
