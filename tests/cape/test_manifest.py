"""The manifest says all the service must know, and a wrong one is refused with the field that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cape.manifest import ManifestError, read_manifest


@pytest.fixture
def document(tiny_repository: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((tiny_repository / "cape.json").read_text())
    return document


def refused(repository: Path, document: dict[str, Any], tmp_path: Path) -> str:
    (tmp_path / "cape.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path)
    return str(caught.value)


def test_keypoint_counts_are_rounded_up_to_buckets(tiny_repository: Path) -> None:
    manifest = read_manifest(tiny_repository)
    assert [manifest.bucket(k) for k in (1, 24, 25, 73, 100)] == [24, 24, 48, 100, 100]
    with pytest.raises(ValueError, match="101 keypoints, at most 100"):
        manifest.bucket(101)


def test_the_version_changes_with_any_graph(tiny_repository: Path) -> None:
    manifest = read_manifest(tiny_repository)
    changed = manifest.components | {
        "text_encoder": manifest.components["text_encoder"].model_copy(update={"sha256": "0" * 64})
    }
    assert manifest.version("flf") != manifest.model_copy(update={"components": changed}).version("flf")


def test_what_is_missing_is_named(tiny_repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such folder"):
        read_manifest(tmp_path / "absent")
    with pytest.raises(ManifestError, match=r"cape\.json: No such file"):
        read_manifest(tmp_path)
    (tiny_repository / "pose_decoder" / "1" / "model.onnx").rename(tmp_path / "model.onnx")
    try:
        with pytest.raises(ManifestError, match=r"pose_decoder/1/model\.onnx: missing"):
            read_manifest(tiny_repository)
    finally:
        (tmp_path / "model.onnx").rename(tiny_repository / "pose_decoder" / "1" / "model.onnx")


def test_wrong_fields_are_named(tiny_repository: Path, document: dict[str, Any], tmp_path: Path) -> None:
    broken = json.loads(json.dumps(document))
    broken["systems"]["flf"]["pathways"] = 0
    assert "systems.flf.pathways" in refused(tiny_repository, broken, tmp_path)
    broken = json.loads(json.dumps(document))
    broken["systems"]["flf"]["components"]["pose_decoder"] = "head"
    assert "there is no component 'head'" in refused(tiny_repository, broken, tmp_path)
    broken = json.loads(json.dumps(document))
    broken["systems"]["flf"]["text_encoder"] = None
    assert "needs a text encoder" in refused(tiny_repository, broken, tmp_path)
    broken = json.loads(json.dumps(document))
    broken["systems"]["flf"]["modalities"] = {"image": "optional", "text": "unused"}
    assert "modalit" in refused(tiny_repository, broken, tmp_path)
    broken = json.loads(json.dumps(document))
    broken["keypoint_buckets"] = [48, 24]
    assert "keypoint_buckets" in refused(tiny_repository, broken, tmp_path)
