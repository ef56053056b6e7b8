"""How the answers of decision-level fusion's two pathways become one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cape.models.dlf_combination import pathway_weights

CELLS = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])


def weights(
    combination: str, answers: list[tuple[float, float]], maps: list[list[float]], *, mask: tuple[float, float] = (1, 1)
) -> list[float]:
    """Weights of two pathways for one keypoint; the second pathway is the more confident one."""
    valid = torch.tensor(mask, dtype=torch.float32)[None, :, None]
    confidence = torch.tensor([0.3, 0.6])[None, :, None] * valid
    keypoints, similarity = torch.tensor(answers)[None, :, None], torch.tensor(maps)[None, :, None]
    found: Tensor = pathway_weights(combination, keypoints, similarity, confidence, valid, CELLS, 0.1)  # type: ignore[arg-type]
    return found[0, :, 0].tolist()


CLOSE = [(0.25, 0.25), (0.3, 0.3)]
APART = [(0.25, 0.25), (0.75, 0.75)]
# Each map peaks at its own answer; the product of both peaks at the first one.
MAPS = [[3.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 2.0]]


@pytest.mark.parametrize(
    ("combination", "answers", "expected"),
    [
        ("mean", APART, [0.5, 0.5]),
        ("confidence", APART, [1 / 3, 2 / 3]),
        ("best", APART, [0, 1]),
        ("agreement", CLOSE, [0.5, 0.5]),
        ("agreement", APART, [1, 0]),
    ],
)
def test_each_combination_weighs_the_answers_as_its_name_says(combination, answers, expected) -> None:
    assert weights(combination, answers, MAPS) == pytest.approx(expected)


@pytest.mark.parametrize("combination", ["agreement", "best", "confidence", "mean"])
@pytest.mark.parametrize("answers", [CLOSE, APART])
def test_a_pathway_without_knowledge_has_no_weight(combination, answers) -> None:
    assert weights(combination, answers, MAPS, mask=(0, 1)) == [0, 1]
    assert weights(combination, answers, MAPS, mask=(1, 0)) == [1, 0]
    assert weights(combination, answers, MAPS, mask=(0, 0)) == [0.5, 0.5]
