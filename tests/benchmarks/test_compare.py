"""Everybody has the same turns, differences are measured against PyTorch eager, and the command runs end to end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.compare.candidates import AbsentError, Candidate
from benchmarks.compare.candidates.litserve import litserve
from benchmarks.compare.measurement import Plan, Result, measure
from benchmarks.compare.report import HEADER, document, tables
from benchmarks.harness.workloads import workload
from cli.main import main


def result(name: str, support, seconds: list[float], rates: list[float]) -> Result:
    return Result(name, support, "float32", 1, seconds, rates, largest=0.5, mean=0.25)


def test_ratios_are_to_the_median_of_eager_and_to_litserve_that_computes_the_support() -> None:
    results = [
        result("PyTorch eager", "computed", [0.5, 0.6, 0.7], [1.5]),
        result("LitServe, PyTorch", "computed", [0.8], [2.0, 4.0]),
        result("LitServe, PyTorch", "kept", [0.3], [9.0]),
        result("capeserve, e", "kept", [0.05, 0.04, 0.06], [24.0, 20.0, 28.0]),
    ]
    table, absent = tables(results, {"Triton": "not here"})
    ours = dict(zip(HEADER, table.rows[-1], strict=True))
    assert ours["p50, ms"] == "50.00"
    assert ours["× eager"] == "12.00"
    assert ours["answers/s"] == "24.00"
    assert ours["× LitServe"] == "8.00"
    assert (ours["largest difference"], ours["mean"]) == ("5.0e-01", "2.5e-01")
    assert absent.rows == (("Triton", "not here"),)
    found = document(results, {}, {})["candidates"][-1]
    assert found["eager_ratio"] == pytest.approx(12)
    assert found["litserve_ratio"] == pytest.approx(8)


def test_without_eager_and_litserve_there_are_no_ratios() -> None:
    (table,) = tables([result("capeserve, e", "kept", [0.05], [24.0])], {})
    row = dict(zip(HEADER, table.rows[0], strict=True))
    assert row["× eager"] == row["× LitServe"] == "–"


def test_everybody_takes_turns_and_is_compared_with_eager() -> None:
    asked: list[tuple[str, int, int]] = []
    running: list[str] = []

    def candidate(name: str, offset: float) -> Candidate:
        @contextmanager
        def turn() -> Iterator[None]:
            running.append(name)
            yield
            running.remove(name)

        def ask(index: int, number: int) -> np.ndarray:
            assert running == [name]
            asked.append((name, index, number))
            return np.full((3, 2), index, np.float32) + np.float32([offset, 0])

        return Candidate(name, "computed", "float32", ask, 2, turn)

    candidates = [candidate("PyTorch eager", 0), candidate("b", 5)]
    steps: list[int] = []
    plan = Plan(rounds=2, calls=3, seconds=0.02)
    numbers = itertools.count(1).__next__
    eager, other = measure(candidates, plan, 2, 10.0, lambda results: steps.append(len(results)), numbers)
    assert (eager.largest, other.largest, other.mean) == (0.0, 0.5, 0.5)
    assert len(eager.seconds) == len(other.seconds) == 6
    assert len(eager.rates) == len(other.rates) == 2
    # After the first answers, which are the same for all, no support is met twice.
    unseen = [number for _, _, number in asked if number]
    assert len(set(unseen)) == len(unseen)
    # Three calls of one, then three of the other: neither has the machine's better half hour.
    order = [name for name, _, _ in asked[4:10]]
    assert order == ["PyTorch eager"] * 3 + ["b"] * 3
    assert len(steps) == 8


def test_a_contestant_that_fails_under_load_is_counted_and_stops_nobody() -> None:
    calls = itertools.count()

    def ask(index: int, number: int) -> np.ndarray:
        if next(calls) > 2 and number % 2:
            raise TimeoutError
        return np.zeros((1, 2), np.float32)

    candidate = Candidate("b", "kept", "float32", ask, 1)
    plan = Plan(rounds=1, calls=1, seconds=0.05)
    (found,) = measure([candidate], plan, 1, 1.0, lambda _: None, itertools.count(0).__next__)
    assert found.failures["TimeoutError"] > 0
    assert found.rate > 0
    assert found.largest is None  # nobody to compare with


def test_a_litserve_that_does_not_start_is_absent_and_says_why(tmp_path: Path) -> None:
    source = ("checkpoint", tmp_path / "none")
    with (
        pytest.raises(AbsentError, match="LitServe does not start"),
        litserve("kept", source, [workload()], tmp_path / "log"),
    ):
        pass


def test_the_command_compares_on_the_same_weights_and_refuses_others(
    tiny_checkpoint: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    command = ["bench", "compare", "--repository", str(tiny_repository), "--quick", "--seconds", "0.2", "--engine"]
    command += ["onnxruntime", "--without", "compile", "--without", "triton", "--output", str(tmp_path)]
    outcome = CliRunner().invoke(main, [*command, "--checkpoint", str(tiny_checkpoint)])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads((tmp_path / "compare.json").read_text())
    assert found["absent"] == {}
    names = [(one["name"], one["support"]) for one in found["candidates"]]
    assert names == [
        ("PyTorch eager", "computed"),
        ("LitServe, PyTorch", "computed"),
        ("LitServe, PyTorch", "kept"),
        ("capeserve, ONNX Runtime", "computed"),
        ("capeserve, ONNX Runtime", "kept"),
    ]
    for one in found["candidates"]:
        assert one["rate"] > 0, one["name"]
        assert one["failures"] == {}, one["name"]
        assert one["largest"] < 1e-3, one["name"]
    assert (tmp_path / "compare.png").stat().st_size > 5000
    configuration = Path(__file__).resolve().parents[2] / "configurations" / "models" / "visual_only.json"
    refused = CliRunner().invoke(main, [*command, "--untrained", str(configuration)])
    assert refused.exit_code == 1
    assert "other weights" in refused.output
