"""The load benchmark runs against a real server, and its summary is what the runs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.harness.arrivals import OK, Call, Outcome
from benchmarks.harness.serving import Batches
from benchmarks.load.measurement import FULL_BATCH, Report, Run, counted_seconds
from benchmarks.load.report import summary, tables
from cli.main import main
from service.telemetry.performance import Percentiles


def run(kind, level: float, throughput: float, goodput: float, p99: float, supports: int = 1) -> Run:
    latency = Percentiles(100, p99 / 2, p99 / 1.1, p99)
    outcome = Outcome(level, goodput, throughput, latency, Percentiles(0, 0, 0, 0), {"OK": 100}, 0.0)
    return Run(kind, level, supports, outcome, {"image_backbone": Batches(10, 125)})


def test_the_summary_compares_with_the_engine_and_with_the_capacity() -> None:
    runs = (
        run("closed", 1, 10, 10, 0.1),
        run("closed", FULL_BATCH, 38, 38, 0.5),
        run("closed", FULL_BATCH, 30, 30, 0.7, supports=32),
        run("closed", FULL_BATCH, 36, 36, 0.4),
        run("overload", 114, 37, 36.1, 1.2),
        run("closed", FULL_BATCH, 40, 40, 0.6),
    )
    found = summary(Report("flf", "e", {1: 20.0, FULL_BATCH: 40.0}, runs))
    assert found == {
        "engine_alone_per_second": 40.0,
        "capacity_per_second": 38,
        "capacity_of_engine": pytest.approx(0.95),
        "overload_goodput_of_capacity": pytest.approx(0.95),
        "overload_p99_of_full_batch_p99": pytest.approx(2.4),
    }


def test_a_busy_servers_rate_counts_whole_batches_and_an_open_loops_the_whole_run() -> None:
    calls = [Call(due, due, done, OK) for due, done in ((5.0, 6.0), (5.1, 14.0), (5.2, 17.0))]
    calls.append(Call(6.0, 6.0, 14.5, "DEADLINE_EXCEEDED"))
    assert counted_seconds("closed", calls, 10.0) is None
    assert counted_seconds("open", calls, 10.0) == 10.0
    assert counted_seconds("overload", calls, 10.0) == 9.0
    assert counted_seconds("overload", calls, 0.5) == 0.5


def test_what_is_not_measured_yet_has_no_figure() -> None:
    report = Report("flf", "e", {}, (run("closed", 1, 10, 10, 0.1),))
    assert set(summary(report).values()) == {None}
    runs, figures = tables(report)
    assert runs.rows[0][-1] == "12.5"
    assert {row[1] for row in figures.rows} == {"–"}


def test_the_command_measures_a_real_server_and_writes_everything(tiny_repository: Path, tmp_path: Path) -> None:
    command = ["bench", "load", "--repository", str(tiny_repository), "--quick", "--seconds", "0.7", "--threads", "1"]
    result = CliRunner().invoke(main, [*command, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "load.json").read_text())
    assert [one["kind"] for one in found["runs"]] == [*["closed"] * 4, "open", "open", "closed", "overload", "closed"]
    assert all(one["batches"]["image_backbone"]["rows"] > 0 for one in found["runs"])
    assert found["command"] == "capeserve bench load --repository flf --threads 1 --seconds 0.7 --quick --output " + (
        tmp_path.name
    )
    assert found["summary"]["capacity_per_second"] > 0
    assert (tmp_path / "load.png").stat().st_size > 5000
    assert "coordinated omission" in (tmp_path / "load.md").read_text()
