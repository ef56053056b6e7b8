"""The ablation: its arithmetic by hand, and one run of it whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from benchmarks.ablation.measurement import SETTINGS, Run, for_system, recorded_runs, summarise
from benchmarks.ablation.report import tables
from cape.configuration import IMAGE_SYSTEMS, TEXT_SYSTEMS
from cape.training.configuration import read_training_configuration
from cli.bench.ablation import CONFIGURATION
from cli.main import main


def run(system: str, seed: int, pck: float) -> Run:
    values = {"0.05": pck / 4, "0.1": pck / 2, "0.15": pck, "0.2": pck, "0.25": pck}
    return Run(system, seed, 10, 1.0, 20, values, 0.5)  # type: ignore[arg-type]


def test_mean_and_spread_are_those_of_the_seeds() -> None:
    (summary,) = summarise([run("flf", 0, 0.5), run("flf", 1, 0.6), run("flf", 2, 0.7)])
    assert (summary.runs, summary.mean["0.2"]) == (3, pytest.approx(0.6))
    assert summary.spread["0.2"] == pytest.approx(0.1)
    (single,) = summarise([run("dlf", 0, 0.5)])
    assert single.spread["0.2"] == 0.0


def test_fusion_is_compared_seed_by_seed_with_what_it_fuses() -> None:
    runs = [run("visual_only", 0, 0.5), run("visual_only", 1, 0.7), run("flf", 0, 0.6), run("flf", 1, 0.6)]
    comparison = tables(runs)[0]
    assert "flf is ahead of visual_only in 1 of 2 seeds, by +0.0 points on average (PCK@0.2)." in comparison.notes
    assert comparison.rows[0][:2] == ("visual_only", "2")
    assert comparison.rows[1][4] == "60.0 ± 0.0"


def test_systems_that_came_to_the_same_in_every_run_are_called_one_network() -> None:
    runs = [run("textual_only", 0, 0.5), run("textual_only", 1, 0.7), run("capex", 0, 0.5), run("flf", 0, 0.5)]
    assert not any("one network" in note for note in tables([*runs, run("capex", 1, 0.6)])[0].notes)
    named = [note for note in tables([*runs, run("capex", 1, 0.7)])[0].notes if "one network" in note]
    assert len(named) == 1 and named[0].startswith("capex and textual_only came to the same in every run")


def test_systems_differ_in_nothing_but_what_they_read() -> None:
    base = read_training_configuration(CONFIGURATION)
    for system in SETTINGS:
        made = for_system(base, system, 4)
        assert (made.model.system, made.seed) == (system, 4)
        assert (made.model.text is None) == (system not in TEXT_SYSTEMS)
        assert made.model.reads_images == (system in IMAGE_SYSTEMS)
        same = ("sources", "schedule", "losses", "optimizer", "batch_size", "towers", "augmentation")
        assert all(getattr(made, name) == getattr(base, name) for name in same)
        assert (made.model.head, made.model.backbone) == (base.model.head, base.model.backbone)


def test_an_ablation_leaves_a_record_and_does_no_run_twice(tmp_path: Path) -> None:
    document = yaml.safe_load(CONFIGURATION.read_text())
    document["model"]["head"] = {"width": 32, "heads": 2, "feedforward": 32, "gate_width": 8, "encoder_layers": 1}
    document["model"]["backbone"]["image_size"] = 64
    document["model"]["head"]["similarity_size"] = 4
    document["sources"][0]["data"] |= {"objects_per_category": 2}
    document |= {"batch_size": 2, "cache_folder": str(tmp_path / "features")}
    document["schedule"] |= {"warmup_steps": 0}
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(document))

    def ablation(*more: str) -> str:
        command = ["bench", "ablation", "--config", str(tmp_path / "ablation.yaml"), "--work", str(tmp_path / "work")]
        command += ["--output", str(tmp_path), "--seeds", "1", "--episodes", "1", "--queries", "1", *more]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        return result.output

    ablation("--system", "flf", "--steps", "2")
    (first,) = recorded_runs(tmp_path / "work")
    assert (first.system, first.steps) == ("flf", 2) and first.pairs > 10
    trained = (tmp_path / "work" / "flf-0" / "last" / "model.safetensors").stat().st_mtime_ns
    ablation("--system", "flf", "--system", "textual_only", "--steps", "2")
    assert (tmp_path / "work" / "flf-0" / "last" / "model.safetensors").stat().st_mtime_ns == trained
    assert [run.system for run in recorded_runs(tmp_path / "work")] == ["textual_only", "flf"]
    assert len(json.loads((tmp_path / "ablation.json").read_text())["runs"]) == 2
    assert "flf is ahead of textual_only" in (tmp_path / "ablation.md").read_text()
    assert (tmp_path / "ablation.png").stat().st_size > 5_000

    command = ["bench", "ablation", "--config", str(tmp_path / "ablation.yaml"), "--work", str(tmp_path / "work")]
    other = CliRunner().invoke(main, [*command, "--system", "flf", "--steps", "3", "--output", str(tmp_path)])
    assert other.exit_code == 1 and "a run of another configuration" in other.output
