"""Scaling, the front end, starts and memory: the commands run end to end, and their arithmetic is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.front_end.measurement import FrontEnd
from benchmarks.memory.measurement import Sample, growth
from benchmarks.scaling.measurement import Point
from benchmarks.scaling.report import by_quantity, tables
from benchmarks.start.measurement import Start
from benchmarks.start.measurement import tables as start_tables
from cli.main import main
from service.telemetry.performance import Percentiles


def invoke(name: str, repository: Path, output: Path, *options: str) -> dict:
    command = ["bench", name, "--repository", str(repository), "--output", str(output), *options]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return json.loads((output / f"{name.replace('-', '_')}.json").read_text())


def test_growth_is_the_slope_of_the_second_half() -> None:
    warming = [Sample(0, 0), Sample(100, 5_000_000), Sample(200, 9_000_000)]
    leaking = [Sample(requests, 10_000_000 + 300 * requests) for requests in (300, 400, 500, 600)]
    assert growth(warming + leaking) == pytest.approx(300)
    steady = [Sample(requests, 10_000_000) for requests in (300, 400, 500, 600)]
    assert growth(warming + steady) == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="samples in the second half"):
        growth([Sample(100, 1)])


def test_what_a_core_can_answer_follows_from_the_processor_time_of_an_answer() -> None:
    latency = Percentiles(1, 0.1, 0.1, 0.1)
    assert FrontEnd(2, "JPEG", 1, 100.0, 0.004, latency).rate_per_core == 250.0


def test_the_median_start_leaves_the_first_out() -> None:
    (table,) = start_tables([Start(9.0, 10.0, 2**20), Start(1.0, 2.0, 2**20), Start(3.0, 4.0, 2**20)])
    assert table.rows[-1] == ("median without the first", "2.00", "3.00", "1")


def test_each_quantity_has_its_table_and_rates_are_compared_with_the_first() -> None:
    latency = Percentiles(3, 0.01, 0.02, 0.03)
    stages = dict.fromkeys(("decode", "prepare", "backbone", "decoder", "total"), 0.002)
    points = [
        Point("keypoints", 8, latency, stages, latency, request_bytes=2048),
        Point("keypoints", 100, latency, stages, latency),
        Point("cores", 1, rate=10.0),
        Point("cores", 2, rate=18.0),
    ]
    assert list(by_quantity(points)) == ["keypoints", "cores"]
    keypoints, cores = tables(points)
    assert keypoints.rows[0] == ("8", "10.00", "20.00", *["2.00"] * 5, "10.00", "2")
    assert cores.rows == (("1", "10.00", "1.00"), ("2", "18.00", "1.80"))


def test_scaling_measures_every_quantity(tiny_repository: Path, tmp_path: Path) -> None:
    found = invoke("scaling", tiny_repository, tmp_path, "--quick", "--runs", "1", "--seconds", "0.5")["points"]
    quantities = {point["quantity"] for point in found}
    assert quantities == {"keypoints", "shots", "boxes", "megapixels", "cores", "processes"}
    assert all(point["rate"] or point["warm"]["p50"] > 0 for point in found)
    assert [point["cold"] is not None for point in found if point["quantity"] == "shots"] == [True, True]
    small, large = (point for point in found if point["quantity"] == "megapixels")
    assert large["request_bytes"] > 10 * small["request_bytes"]
    assert (tmp_path / "scaling.png").stat().st_size > 5000


def test_the_front_end_is_measured_with_an_engine_that_answers_at_once(tiny_repository: Path, tmp_path: Path) -> None:
    runs = invoke("front-end", tiny_repository, tmp_path, "--seconds", "0.6", "--processes", "1")["runs"]
    assert [run["input"] for run in runs] == ["JPEG", "raw crop"]
    assert all(run["rate"] > 0 for run in runs)
    assert all(0 < run["cpu"] < 1 for run in runs)


def test_memory_is_sampled_over_requests(tiny_repository: Path, tmp_path: Path) -> None:
    found = invoke("memory", tiny_repository, tmp_path, "--null", "--requests", "100")
    assert [sample["requests"] for sample in found["samples"]] == [0, *range(5, 101, 5)]
    assert found["samples"][-1]["resident"] > 20 * 2**20
    assert found["growth_bytes_per_request"] is not None


def test_starts_are_timed_to_ready_and_to_the_first_answer(tiny_repository: Path, tmp_path: Path) -> None:
    (start,) = invoke("start", tiny_repository, tmp_path, "--starts", "1", "--threads", "1")["starts"]
    assert 0 < start["ready"] < start["answered"]
