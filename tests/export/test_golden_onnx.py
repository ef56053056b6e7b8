"""The exported graphs of a published checkpoint give the numbers of its own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import golden


@pytest.mark.parametrize("case", golden.CASES)
def test_exported_graphs_answer_as_the_published_code(case: str, tmp_path: Path) -> None:
    expected = golden.load(case)
    outputs = golden.exported_answer(golden.published_system(expected.state), expected, tmp_path)

    valid = expected.mask > 0
    np.testing.assert_allclose(outputs["keypoints"][valid], expected.output[-1][valid], atol=1e-4)
    spread = expected.similarity[valid].std()
    assert np.abs(outputs["similarity"] - expected.similarity)[valid].max() < 1e-3 * spread
    assert ((outputs["scores"] > 0) == valid).all()
