"""`capeserve explain` draws what a model saw, from a checkpoint and an annotation file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cape.checkpoints import save_checkpoint, untrained
from cli.main import main
from tests.conftest import tiny_configuration

BANNER = (255, 193, 7)


@pytest.fixture
def explain(tiny_checkpoint: Path, examples: Path, tmp_path: Path) -> Callable[..., Result]:
    """Explains the tiny model's answer on a photograph; figures go to `tmp_path / "out"`."""

    def run(*arguments: object, checkpoint: Path = tiny_checkpoint) -> Result:
        command = ["explain", str(examples / "grace_hopper.jpg"), "--checkpoint", str(checkpoint)]
        command += ["--support", str(examples / "astronaut.yaml"), "--output", str(tmp_path / "out")]
        return CliRunner().invoke(main, [*command, *(str(argument) for argument in arguments)])

    return run


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_figure_is_written_and_says_that_the_weights_are_random(explain, tmp_path):
    result = explain("--keypoints", "left pupil,chin")
    assert result.exit_code == 0, result.output
    figure = picture(tmp_path / "out" / "grace_hopper_explained.png")
    assert min(figure.shape[:2]) > 400
    assert (figure[:10] == BANNER).all()


def test_every_box_gets_a_figure_and_other_boxes_other_maps(explain, tmp_path):
    result = explain("--box", "100,50,200,200", "--box", "0,0,400,400")
    assert result.exit_code == 0, result.output
    first, second = (picture(tmp_path / "out" / f"grace_hopper_explained_{number}.png") for number in (1, 2))
    assert first.shape != second.shape or (first != second).any()


def test_both_pathways_of_a_decision_level_model_get_rows_of_their_own(explain, tmp_path, tokenizer_file):
    heights = []
    for system in ("flf", "dlf"):
        save_checkpoint(untrained(tiny_configuration(system=system), seed=1), tmp_path / system, tokenizer_file)
        result = explain("--keypoints", "left pupil", checkpoint=tmp_path / system)
        assert result.exit_code == 0, result.output
        heights.append(picture(tmp_path / "out" / "grace_hopper_explained.png").shape[0])
    assert heights[1] > heights[0] + 200


def test_a_keypoint_that_is_not_there_is_named_with_those_that_are(explain):
    result = explain("--keypoints", "left antenna")
    assert result.exit_code == 2
    assert "there is no 'left antenna'" in result.output
    assert "left pupil" in result.output


def test_a_box_outside_the_photograph_is_named(explain):
    result = explain("--box", "5000,0,10,10")
    assert result.exit_code == 1
    assert "boxes[0]: outside the image" in result.output


def test_a_support_that_lacks_what_the_model_needs_says_so(tiny_checkpoint, examples, tmp_path):
    texts = tmp_path / "texts.yaml"
    texts.write_text("category: face\nkeypoints: [left eye, right eye]\n")
    command = ["explain", str(examples / "grace_hopper.jpg"), "--checkpoint", str(tiny_checkpoint)]
    result = CliRunner().invoke(main, [*command, "--support", str(texts), "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "flf needs example images" in result.output
