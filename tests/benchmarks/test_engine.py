"""The engine benchmark runs what a query costs, no more and no less, and reports it beside the paper."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from benchmarks.engine.measurement import SystemSpeed, Workload, measure_system
from benchmarks.engine.report import HEADER, rows
from cape.manifest import Manifest, read_manifest
from cli.main import main
from service.engines.base import Tensors
from service.engines.onnx_runtime import OnnxRuntimeEngine
from service.telemetry.performance import Percentiles

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.sh"


class CountingEngine:
    """Answers as the manifest says, and counts the rows that each component was given."""

    description = "counting"
    concurrency = 1
    useful_batch = None

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.rows: Counter[str] = Counter()

    def run(self, component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        spec = self.manifest.components[component]
        sizes = {}
        for tensor in spec.inputs:
            sizes |= dict(zip(tensor.shape, inputs[tensor.name].shape, strict=True))
        self.rows[component] += sizes["B"]
        shapes = {tensor.name: tensor.shape for tensor in spec.outputs}
        return {name: np.zeros([sizes.get(size, size) for size in shapes[name]], np.float32) for name in outputs}

    def close(self) -> None:
        pass


def test_a_cold_query_costs_its_texts_two_images_and_a_fusion_and_a_warm_one_an_image(tiny_repository: Path) -> None:
    manifest = read_manifest(tiny_repository)
    engine = CountingEngine(manifest)
    workload = Workload(engine, manifest, "flf", keypoints=17)
    workload.cold()
    assert engine.rows == {"text_encoder": 17, "image_backbone": 2, "support_fusion": 1, "pose_decoder": 1}
    engine.rows.clear()
    workload.warm(5)
    assert engine.rows == {"image_backbone": 5, "pose_decoder": 5}


def test_every_batch_size_that_the_components_take_is_measured_on_a_real_engine(tiny_repository: Path) -> None:
    manifest = read_manifest(tiny_repository)
    engine = OnnxRuntimeEngine(tiny_repository, manifest)
    steps: list[tuple[str, int, int]] = []
    speed = measure_system(
        engine, manifest, "flf", runs=3, warm_up=1, batches=(1, 4, 128), progress=lambda *step: steps.append(step)
    )
    assert set(speed.throughput) == {1, 4}  # the backbone takes 64 at most
    assert speed.cold.count == speed.warm.count == 3
    assert 0 < speed.cold.p50 <= speed.cold.p99
    assert speed.paper_seconds == 0.06135
    assert steps[-1] == ("flf, done", 4, 4)


def test_rows_say_how_many_times_the_papers_speed_a_cold_query_is() -> None:
    cold, warm = Percentiles(100, 0.030675, 0.05, 0.06), Percentiles(100, 0.01, 0.02, 0.03)
    known, unknown = rows(
        [SystemSpeed(system, "e", cold, warm, {1: 100.0, 8: 250.0}) for system in ("flf", "visual_only")]
    )
    found = dict(zip(HEADER[:7], known[:7], strict=True))
    assert (found["cold p50"], found["paper"], found["× paper"]) == ("30.68", "61.35", "2.00")
    assert known[-1] == "250.0"
    assert unknown[5:7] == ("–", "–")


def test_the_command_writes_json_and_markdown(tiny_repository: Path, tmp_path: Path) -> None:
    command = ["bench", "engine", "--repository", str(tiny_repository), "--runs", "3", "--batch", "1", "--batch", "2"]
    result = CliRunner().invoke(main, [*command, "--output", str(tmp_path), "--name", "tiny", "--device", "a card"])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert found["device"] == "a card"
    assert list(found["systems"][0]["throughput"]) == ["1", "2"]
    assert (tmp_path / "tiny.png").stat().st_size > 5000
    assert "| flf, onnxruntime:" in (tmp_path / "tiny.md").read_text()


def test_a_provider_that_is_not_there_is_named(tiny_repository: Path) -> None:
    command = ["bench", "engine", "--repository", str(tiny_repository), "--provider", "NoneExecutionProvider"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "no NoneExecutionProvider here" in result.output


def test_of_several_providers_those_that_do_not_work_are_left_out(tiny_repository: Path, tmp_path: Path) -> None:
    providers = ["--provider", "NoneExecutionProvider", "--provider", "CPUExecutionProvider"]
    command = ["bench", "engine", "--repository", str(tiny_repository), *providers, "--runs", "3", "--batch", "1"]
    result = CliRunner().invoke(main, [*command, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "left out: " in result.stderr
    assert "no NoneExecutionProvider here" in result.stderr
    (measured,) = json.loads((tmp_path / "engine.json").read_text())["systems"]
    assert measured["engine"] == "onnxruntime:CPUExecutionProvider"


CARD = """#!/bin/sh
echo "A Card"
echo "A Second Card"
"""

CAPESERVE = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
  *--provider*Tensorrt*) exit 139 ;;
  triton*) echo "Triton is ready"; echo $$ >> "$CALLS.pids"; exec sleep 60 ;;
  serve*) echo "serving flf"; echo $$ >> "$CALLS.pids"; exec sleep 60 ;;
esac
while [ $# -gt 1 ]; do
  if [ "$1" = --output ]; then mkdir -p "$2"; touch "$2/cape.json"; fi
  shift
done
"""


def test_the_script_for_a_cuda_machine_goes_on_after_a_step_that_fails_and_says_which(tmp_path: Path) -> None:
    """With commands that do nothing but say so, and a TensorRT that crashes."""
    work, results, calls = tmp_path / "work", tmp_path / "results", tmp_path / "calls"
    for path, content in (
        (tmp_path / "bin" / "nvidia-smi", CARD),
        (work / "venv" / "bin" / "capeserve", CAPESERVE),
        (work / "venv" / "bin" / "python", "#!/bin/sh"),
        (work / "venv" / "complete", ""),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(calls)}
    finished = subprocess.run(
        ["bash", str(SCRIPT), str(work), str(results)],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert finished.stderr.splitlines()[-1] == "failed: all providers", finished.stderr
    assert finished.returncode == 1
    ran = calls.read_text().splitlines()
    assert sum(line.startswith("export") for line in ran) == 6  # four systems, plans, the demonstration
    engines = [line for line in ran if line.startswith("bench engine")]
    assert "TensorrtExecutionProvider" in engines[0] and "TensorrtExecutionProvider" not in engines[1]
    assert all("--device A Card --output" in line and line.count("--repository") == 4 for line in engines)
    assert any(line.startswith("evaluate --target 127.0.0.1:18050") for line in ran)
    assert ran[-1].startswith("evaluate --checkpoint")
    started = Path(f"{calls}.pids").read_text().split()
    assert len(started) == 2
    assert not any(Path(f"/proc/{number}").exists() for number in started)


def test_the_script_for_a_cuda_machine_says_what_it_needs_where_there_is_no_card(tmp_path: Path) -> None:
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    finished = subprocess.run(
        ["bash", str(SCRIPT)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    assert "this needs an NVIDIA card" in finished.stderr
