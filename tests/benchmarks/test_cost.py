"""Parameters and multiply-adds are counted from the exported graphs' shapes, and lead to Table 5's figures."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from benchmarks.cost.measurement import SYSTEMS, Sizes, count, measure_cost, published_configuration
from benchmarks.cost.table5 import differences, parameters_as_published
from benchmarks.harness.table5 import TABLE_5
from cli.main import main
from tests.conftest import tiny_configuration


def test_a_product_of_matrices_counts_one_multiply_add_for_each_pair_of_values() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))
    counts = count(module, (torch.empty(11, 5),))
    assert sum(counts[""].values()) // 2 == 11 * 5 * 7 + 11 * 7 * 3
    assert sum(counts["2"].values()) // 2 == 11 * 7 * 3


@pytest.mark.parametrize("system", TABLE_5)
def test_counts_lead_to_table_5(system) -> None:
    cost = measure_cost(published_configuration(system), Sizes())
    assert parameters_as_published(cost) / 1e6 == pytest.approx(TABLE_5[system].parameters, abs=5e-4)
    explained = cost.uncached + sum(difference.multiply_adds for difference in differences(cost))
    assert explained / 1e9 == pytest.approx(TABLE_5[system].multiply_adds, abs=1e-3)


def test_texts_and_shots_cost_once_per_support_and_keypoints_per_query() -> None:
    configuration = tiny_configuration()
    base, longer, shots, more = (
        measure_cost(configuration, sizes) for sizes in (Sizes(), Sizes(tokens=12), Sizes(shots=5), Sizes(keypoints=68))
    )
    assert longer.per_query == shots.per_query == base.per_query < more.per_query
    assert longer.per_support > base.per_support
    backbone = base.multiply_adds("image_backbone")
    assert shots.per_support - base.per_support >= 4 * backbone
    assert base.uncached == base.per_support + base.per_query


def test_the_command_prints_every_system_as_json_and_writes_markdown(tmp_path) -> None:
    path = tmp_path / "cost.md"
    result = CliRunner().invoke(main, ["bench", "cost", "--json", "--output", str(path)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)["systems"]
    assert set(found) == set(SYSTEMS)
    assert "text_encoder" not in found["graphcape"]["components"]
    table = path.read_text()
    assert all(f"| {system} |" in table for system in SYSTEMS)
    assert "24.456" in table
