"""`capeserve evaluate` with a CapeLLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cape.evaluation.capellm import checkpoint_estimator
from cape.evaluation.estimator import QueryObject
from cape.modalities import MissingModalityError
from cape.models.capellm.checkpoint import load_capellm, save_capellm
from cape.support import Box, SupportDefinition
from cli.main import main
from tests.cape.capellm.conftest import CATEGORY, Learnt
from tests.cape.training.conftest import write_dots


@pytest.fixture
def checkpoint(learnt: Learnt, tmp_path: Path) -> Path:
    save_capellm(learnt.model, tmp_path / "llm", learnt.tokenizer.tokenizer)
    return tmp_path / "llm"


def evaluate(checkpoint: Path, *arguments: object) -> Result:
    dots = write_dots(checkpoint.parent / "dots")
    command = ["evaluate", "--checkpoint", checkpoint, "--coco", dots, *arguments]
    return CliRunner().invoke(main, [str(argument) for argument in command])


@pytest.mark.parametrize(("shots", "pairs"), [(1, 2 * 4 * 3), (0, 2 * 4 * 4)])
def test_pairs_and_queries_alone_are_evaluated_by_the_same_command(checkpoint: Path, shots: int, pairs: int) -> None:
    result = evaluate(checkpoint, "--shots", shots, "--json", "--variation", "names_only", "--variation", "no_image")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["pairs"] == pairs
    assert "capellm" in report["estimator"]
    assert "does not use support images" in json.dumps(report["variations"]["no_image"])
    assert report["variations"]["names_only"]["scores"]["pairs"] == pairs


def test_readout_is_part_of_the_name_and_pictures_need_no_support(checkpoint: Path, tmp_path: Path) -> None:
    options = ("--shots", 0, "--readout", "expectation", "--pictures", 1, "--output", tmp_path / "report")
    result = evaluate(checkpoint, *options)
    assert result.exit_code == 0, result.output
    assert "capellm, dinov2-32x1, llama, expectation" in result.stdout
    assert (tmp_path / "report" / "best_01.png").stat().st_size > 1000


def test_what_it_learnt_is_found_in_pixels_of_the_picture(learnt: Learnt, checkpoint: Path) -> None:
    """The crop of a box, 1.25 times as wide, is the picture that it learnt."""
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[20:180, 60:220] = learnt.images[1][0, 0]
    estimator = checkpoint_estimator(load_capellm(checkpoint))
    support = SupportDefinition(CATEGORY.name, CATEGORY.keypoints)
    query = QueryObject(1, picture, Box(76, 36, 128, 128))
    pose = estimator.estimate(support, [query]).poses[0]
    again = estimator.estimate(support, [query]).poses[0]
    expected = learnt.places[1] * 160 + [60, 20]
    np.testing.assert_allclose(pose.keypoints, expected, atol=0.2)
    np.testing.assert_array_equal(pose.keypoints, again.keypoints)
    assert pose.located.all()


def test_a_support_whose_texts_may_not_be_used_is_refused(checkpoint: Path) -> None:
    estimator = checkpoint_estimator(load_capellm(checkpoint))
    support = SupportDefinition(CATEGORY.name, CATEGORY.keypoints, modalities=("image",))
    with pytest.raises(MissingModalityError, match="capellm needs texts"):
        estimator.estimate(support, [])
