"""`capeserve bench capellm`, on the small model that has learnt to speak."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks.capellm.systems import CapeLlmRow, QueryCost, capellm_section, query_cost
from benchmarks.systems.measurement import Row, document
from cape.models.capellm.checkpoint import save_capellm, untrained_capellm
from cli.main import main
from tests.cape.capellm.conftest import Learnt, learn, tiny, tiny_tokenizer


def test_the_ways_are_compared_and_written_down(tmp_path: Path) -> None:
    learnt: Learnt = learn(60)
    learnt.model.configuration = learnt.model.configuration.model_copy(update={"trained": True})
    save_capellm(learnt.model, tmp_path / "llm", learnt.tokenizer.tokenizer)
    command = ["bench", "capellm", "--checkpoint", tmp_path / "llm", "--keypoints", 3, "--keypoints", 9]
    result = CliRunner().invoke(main, [str(a) for a in (*command, "--runs", 2, "--output", tmp_path / "results")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "results" / "capellm.json").read_text())["comparisons"]
    assert [one["keypoints"] for one in found] == [3, 9]
    for one in found:
        # The begin token and 16 image tokens run once instead of once a keypoint.
        assert one["plain"]["prompt_tokens"] - one["shared"]["prompt_tokens"] == 17 * (one["keypoints"] - 1)
        assert one["shared"]["steps"] == 3
        assert one["plain"]["steps"] > 3 * one["keypoints"]
        assert len(one["plain_seconds"]) == 2
    report = (tmp_path / "results" / "capellm.md").read_text()
    assert "| 9 | shared prefix, one batch |" in report
    assert f"{found[1]['equal']} of 9 answers are the same." in report


def test_a_query_is_counted_product_by_product_without_weights() -> None:
    configuration = tiny()
    cost = query_cost(configuration, tiny_tokenizer(configuration))
    model = untrained_capellm(configuration)
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    language = configuration.language.architecture
    width, layers, inner = language["hidden_size"], language["num_hidden_layers"], language["intermediate_size"]
    # Begin token and 16 image tokens: query, key, value, output with half the heads for keys and values; the gated
    # layers; attention of all positions with all; the logits of the last position.
    layer = 17 * (3 * width * width + 3 * width * inner) + 2 * 17 * 17 * width
    assert cost.prefix == layers * layer + width * language["vocab_size"]
    assert cost.questions > 17 * cost.prefix
    assert cost.runs == 3


def test_what_is_not_measured_stays_in_the_document() -> None:
    costs = QueryCost(5_000_000, 1, 2, 3, 4)
    section = capellm_section(CapeLlmRow(costs, costs, 45, 0.0, 0.0))
    row = Row("flf", 1, 2, 3, 0.0, None, None, 0.0)
    both = document("", [row], section)
    assert "| `flf` |" in both
    assert "## capellm" in both
    assert document(both, [], section) == both
    assert document(both, [row], None) == both
    changed = document(both, [], section.replace("45 of 45", "7 of 7"))
    assert "7 of 7" in changed
    assert "45 of 45" not in changed
    assert "| `flf` |" in changed
