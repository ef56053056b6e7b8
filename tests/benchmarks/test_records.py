"""A record says where it is from, and is whole at any moment."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.harness.records import Record, instructions
from benchmarks.harness.serving import Batches, cpu_seconds
from benchmarks.harness.tables import ReportTable, markdown_table
from benchmarks.harness.workloads import resized, workload
from cli.bench.options import typed_command

TABLE = ReportTable("Speed, ms", ("engine", "p50"), (("a", "1.0"), ("b", "2.0")), ("a note",))


def test_json_markdown_and_plot_name_machine_versions_command_and_date(tmp_path: Path) -> None:
    record = Record("speed", "How fast", "capeserve bench speed", tmp_path)
    paths = record.write({"p50": 1.0}, [TABLE], lambda figure: figure.add_subplot().plot([1, 2]))
    assert [path.name for path in paths] == ["speed.json", "speed.md", "speed.png"]
    found = json.loads(paths[0].read_text())
    assert found["p50"] == 1.0
    assert found["command"] == "capeserve bench speed"
    text = paths[1].read_text()
    for part in (found["machine"], found["date"], f"onnxruntime {found['versions']['onnxruntime']}", "bench speed"):
        assert part in text
    assert paths[2].stat().st_size > 5000
    assert {path.name for path in tmp_path.iterdir()} == {"speed.json", "speed.md", "speed.png"}


def test_a_table_becomes_markdown() -> None:
    assert markdown_table(TABLE) == (
        "## Speed, ms\n\n| engine | p50 |\n|---|--:|\n| a | 1.0 |\n| b | 2.0 |\n\n- a note\n"
    )


def test_only_features_that_the_processor_has_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags\t\t: fpu avx2 amx_bf16_not amx_int8\n")
    assert instructions(path) == ["avx2", "amx_int8"]
    assert instructions(tmp_path / "none") == []


def test_the_command_is_told_as_typed_without_the_folders_of_absolute_paths() -> None:
    @click.group()
    def capeserve() -> None: ...

    @capeserve.command()
    @click.option("--repository", type=click.Path(path_type=Path))
    @click.option("--relative", type=click.Path(path_type=Path))
    @click.option("--batch", multiple=True, type=int, default=(1, 2))
    @click.option("--quick", is_flag=True)
    @click.option("--seconds", default=3.0)
    def bench(**_: object) -> None:
        click.echo(typed_command())

    arguments = ["bench", "--quick", "--repository", "/home/somebody/flf", "--relative", "build/flf", "--batch", "8"]
    told = CliRunner().invoke(capeserve, arguments, prog_name="capeserve").output
    assert told == "capeserve bench --repository flf --relative build/flf --batch 8 --quick\n"


def test_rows_a_batch_are_those_since_the_counters_were_last_read() -> None:
    assert Batches(10, 100).since(Batches(6, 40)) == Batches(4, 60)
    assert Batches(4, 60).mean == 15.0
    assert Batches(0, 0).mean == 0.0


def test_processor_time_is_read_past_a_name_with_spaces_and_brackets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    (tmp_path / "7").mkdir()
    fields = ["S", *["0"] * 10, "250", "50", *["0"] * 30]
    (tmp_path / "7" / "stat").write_text(f"7 (a) b (c) {' '.join(fields)}")
    assert cpu_seconds(7, tmp_path) == 3.0


def test_a_workload_has_the_sizes_that_were_asked_for_and_its_keypoints_are_inside_the_box() -> None:
    work = workload(keypoints=100, shots=3, boxes=4)
    assert len(set(work.support.names)) == 100
    assert len(work.support.examples) == 3
    assert len(work.boxes) == 4
    for example in work.support.examples:
        assert example.box is not None
        low = [example.box.x, example.box.y]
        high = [example.box.x + example.box.width, example.box.y + example.box.height]
        assert (example.keypoints >= low).all()
        assert (example.keypoints <= high).all()
    assert work.unseen(1).keypoints[0].description != work.unseen(2).keypoints[0].description


def test_a_photograph_grows_with_its_box() -> None:
    small, large = workload(), workload(megapixels=0.5)
    _, scale = resized(small.image, 0.5)
    assert large.boxes[0].width == pytest.approx(scale * small.boxes[0].width)
