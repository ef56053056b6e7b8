"""Table 5 again: cold and warm, the service's own cost, and the paper only for systems of its size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.cost.measurement import Sizes, measure_cost
from benchmarks.engine.measurement import Workload as EngineWorkload
from benchmarks.harness.table5 import has_published_size
from benchmarks.latency.measurement import Latency, MultiplyAdds, SystemLatency, published_cost
from benchmarks.latency.report import HEADER, document, tables
from cape.manifest import read_manifest
from cli.main import main
from service.engines.base import Tensors
from service.engines.onnx_runtime import OnnxRuntimeEngine
from tests.conftest import tiny_configuration


def latency(engine: float, trip: float) -> Latency:
    return Latency.of([(engine, (trip, trip))])


ROW = SystemLatency(
    "flf", "flf", "e", "float32", "swinv2-s", 195_000_000, latency(0.2, 0.21), latency(0.04, 0.0409), None
)


def test_the_paper_is_a_row_of_the_published_size_only() -> None:
    cost = MultiplyAdds(per_query=13_750_000_000, uncached=37_970_000_000)
    cold, warm = (dict(zip(HEADER, row, strict=True)) for row in tables([replace(ROW, cost=cost)])[0].rows)
    assert (warm["paper"], warm["× paper"], warm["FPS"]) == ("61.35", "1.50", "24.45")
    assert (cold["engine alone"], cold["service"]) == ("200.00", "10.00")
    assert warm["service"] == "0.90"
    assert (cold["× 10⁹ MACs"], warm["× 10⁹ MACs"]) == ("37.97", "13.75")
    other = dict(zip(HEADER, tables([ROW])[0].rows[1], strict=True))
    assert other["paper"] == other["× paper"] == other["× 10⁹ MACs"] == "–"
    found = document([ROW])["systems"][0]
    assert found["warm"]["service_cost"] == pytest.approx(0.0009)
    assert found["paper_seconds"] is None


def test_the_published_size_is_recognised_by_its_parameters(tiny_repository: Path) -> None:
    assert has_published_size("flf", 194_945_579)
    assert not has_published_size("flf", 27_500_000)
    assert not has_published_size("capellm", 194_945_579)
    manifest = read_manifest(tiny_repository)
    assert published_cost(tiny_repository, manifest, "flf", keypoints=17) is None


def test_multiply_adds_are_counted_in_the_exported_graphs(tiny_repository: Path) -> None:
    manifest = read_manifest(tiny_repository)
    systems = {"flf": manifest.systems["flf"].model_copy(update={"parameters": 195_000_000})}
    large = manifest.model_copy(update={"systems": systems})
    cost = published_cost(tiny_repository, large, "flf", keypoints=17)
    counted = measure_cost(tiny_configuration(), Sizes(keypoints=17))
    assert cost is not None
    assert cost.per_query == pytest.approx(counted.per_query, rel=0.02)
    assert cost.uncached == pytest.approx(counted.uncached, rel=0.02)


def test_the_services_cost_is_the_median_of_neighbours_so_that_a_machine_that_slows_down_slows_both() -> None:
    measured = Latency.of([(0.1, (0.11, 0.105)), (0.5, (0.52, 0.51)), (0.2, (0.21, 0.2))])
    assert measured.service_cost == pytest.approx(0.01)
    assert (measured.engine.p50, measured.round_trip.p50, measured.server.p50) == (0.2, 0.21, 0.2)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_command_measures_engine_and_server_in_turns(tiny_repository: Path, tmp_path: Path, engine: str) -> None:
    command = ["bench", "latency", "--repository", str(tiny_repository), "--runs", "11", "--engine", engine]
    result = CliRunner().invoke(main, [*command, "--threads", "1", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (found,) = json.loads((tmp_path / "latency.json").read_text())["systems"]
    assert found["engine"].startswith(engine)
    for kind in ("cold", "warm"):
        for way in ("engine", "round_trip", "server"):
            assert found[kind][way]["count"] == 11
            assert found[kind][way]["p50"] > 0
        assert found[kind]["server"]["p50"] < found[kind]["round_trip"]["p50"]
    assert (tmp_path / "latency.md").read_text().count("| flf, flf |") == 2


def test_a_warm_query_runs_what_a_cold_one_runs_but_for_its_support(tiny_repository: Path) -> None:
    manifest = read_manifest(tiny_repository)
    engine = OnnxRuntimeEngine(tiny_repository, manifest, threads=1)
    run, began = engine.run, []

    def watched(component: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, Any]:
        began.append(component)
        return run(component, inputs, outputs)

    engine.run = watched  # type: ignore[method-assign]
    alone = EngineWorkload(engine, manifest, "flf", 5)
    alone.warm(1)
    assert began == ["image_backbone", "pose_decoder"]
    began.clear()
    alone.cold()
    assert began == ["text_encoder", "image_backbone", "support_fusion", "image_backbone", "pose_decoder"]
