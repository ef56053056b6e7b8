"""The exported graphs of a published checkpoint give the numbers of its own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import golden_models as golden

SAME_BACKBONE = {"capex_t"}
"""Its Swin V2-T is the one of graphcape_t_mlp: to trace it again takes as long as all else and shows nothing new."""


@pytest.mark.parametrize("case", golden.CASES)
def test_exported_graphs_answer_as_the_published_code(case: str, tmp_path: Path) -> None:
    expected = golden.load(case)
    system = golden.published_system(expected.state)
    outputs = golden.exported_answer(system, expected, tmp_path, backbone=case not in SAME_BACKBONE)

    valid = expected.mask > 0
    np.testing.assert_allclose(outputs["keypoints"][valid], expected.output[-1][valid], atol=1e-4)
    spread = expected.similarity[valid].std()
    assert np.abs(outputs["similarity"] - expected.similarity)[valid].max() < 1e-3 * spread
    assert ((outputs["scores"] > 0) == valid).all()
