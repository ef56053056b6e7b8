"""A CapeLLM's repository with rounded weights: recorded, compared with float32, refused where it is too far away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cape.manifest import read_manifest
from cape.models.capellm.checkpoint import load_capellm
from cli.export import export
from export.capellm import repository as capellm_repository
from export.capellm import weights as capellm_weights
from export.capellm.graphs import DECODER, VISION
from export.capellm.repository import export_capellm_repository
from export.graph import ExportError
from export.weights import Weights
from tests.conftest import ExportedCapeLlm


@pytest.fixture(autouse=True)
def little_work(tiny_capellm: ExportedCapeLlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that were exported before, and few questions about them."""

    def already_exported(model: object, folder: Path) -> None:
        for name in (VISION, DECODER):
            shutil.copytree(tiny_capellm.repository / name, folder / name)

    monkeypatch.setattr(capellm_repository, "export_capellm", already_exported)
    for name, value in (("CATEGORIES", 2), ("CROPS", 1), ("TURNS", 1)):
        monkeypatch.setattr(capellm_weights, name, value)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_what_rounding_costs_is_in_the_manifest(
    tiny_capellm: ExportedCapeLlm, tmp_path: Path, weights: Weights
) -> None:
    checkpoint = load_capellm(tiny_capellm.checkpoint)
    exported = export_capellm_repository(checkpoint, tmp_path / "r", weights=weights, weights_tolerance=1)
    manifest, float32 = read_manifest(tmp_path / "r"), read_manifest(tiny_capellm.repository)
    rounded = manifest.language_systems["capellm"].rounded
    assert exported.weights is not None
    assert rounded == exported.weights.answers
    assert (rounded.weights, rounded.tolerance) == (weights, 1)
    assert rounded.answers > 17
    assert 0 <= rounded.equal_answers <= rounded.equal_tokens <= 1
    assert rounded.mean_distance <= rounded.largest_distance
    # DINOv2 is linear layers, too, and keeps 8 bits.
    assert {name: part.precision for name, part in manifest.components.items()} == {VISION: "int8", DECODER: weights}
    assert all(manifest.components[name].bytes < part.bytes for name, part in float32.components.items())
    assert float32.language_systems["capellm"].rounded is None
    assert manifest.version("capellm") != float32.version("capellm")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        *sorted(path.name for path in tiny_capellm.repository.iterdir())
    ]


def test_answers_too_far_from_float32_leave_nothing_behind(tiny_capellm: ExportedCapeLlm, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"int4 weights keypoints are on average 0\.\d+ .*more than 0 .*nothing was"):
        export_capellm_repository(
            load_capellm(tiny_capellm.checkpoint), tmp_path / "r", weights="int4", weights_tolerance=0
        )
    assert list(tmp_path.iterdir()) == []


def test_a_tolerance_without_rounded_weights_is_refused(tiny_capellm: ExportedCapeLlm, tmp_path: Path) -> None:
    flags = [
        "capellm",
        "--checkpoint",
        str(tiny_capellm.checkpoint),
        "--output",
        str(tmp_path / "r"),
        "--weights-tolerance",
        "1",
    ]
    result = CliRunner().invoke(export, flags)
    assert result.exit_code == 2
    assert "--weights-tolerance: only with --weights int8 or int4" in result.output


def test_the_command_tells_what_rounding_cost(tiny_capellm: ExportedCapeLlm, tmp_path: Path) -> None:
    flags = [
        "capellm",
        "--checkpoint",
        str(tiny_capellm.checkpoint),
        "--output",
        str(tmp_path / "r"),
        "--weights",
        "int8",
    ]
    result = CliRunner().invoke(export, [*flags, "--weights-tolerance", "1"])
    assert result.exit_code == 0, result.output
    assert "int8 weights against float32" in result.output
    assert "equal answers" in result.output
