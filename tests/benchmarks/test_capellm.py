"""`capeserve bench capellm`, on the small model that has learnt to speak."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from cape.models.capellm.checkpoint import save_capellm
from cli.main import main
from tests.cape.capellm.conftest import Learnt, learn


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
