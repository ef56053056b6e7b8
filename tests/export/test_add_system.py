"""Several systems in one repository: what is equal is kept once, what is not keeps out of each other's way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cape.checkpoints import Checkpoint, load_checkpoint
from cape.manifest import MANIFEST_NAME, read_manifest
from export import repository
from export.add_system import add_system, check_addition
from export.graph import ExportError
from export.repository import Exported, export_repository
from export.triton.configurations import write_configurations
from export.triton.options import TritonOptions


def test_a_system_on_the_same_towers_shares_their_graphs(
    tiny_export: Callable[..., Path], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two tiny systems have equal towers, exported one at a time: equal weights make equal files."""
    output, exported_alone = tiny_export("flf"), tiny_export("dlf")
    alone = read_manifest(output)
    checkpoint = load_checkpoint(tiny_checkpoint)
    checkpoint.system.configuration = checkpoint.system.configuration.model_copy(update={"system": "dlf"})

    def already_exported(checkpoint: Checkpoint, folder: Path, *_: object) -> Exported:
        shutil.copytree(exported_alone, folder, dirs_exist_ok=True)
        return Exported(read_manifest(folder), "dlf", 0)

    monkeypatch.setattr(repository, "_write", already_exported)
    exported = export_repository(checkpoint, output, add=True)

    manifest = read_manifest(output)
    assert exported.manifest == manifest
    assert manifest.systems["flf"] == alone.systems["flf"]
    assert manifest.version("flf") == alone.version("flf")
    assert manifest.systems["dlf"].components == {
        "image_backbone": "image_backbone",
        "text_encoder": "text_encoder",
        "support_fusion": "dlf_support_fusion",
        "pose_decoder": "dlf_pose_decoder",
    }
    assert {path.name for path in output.iterdir() if path.is_dir()} == {
        *manifest.components,
        "single_shot",
        *(f"{system}{suffix}" for system in ("flf", "dlf") for suffix in ("", "_support", "_query")),
    }
    source = manifest.systems["dlf"].source
    assert source is not None
    assert (source.checkpoint, manifest.source.checkpoint) == ("tiny-dlf", "tiny-flf")


def test_a_system_on_other_towers_brings_its_own(tiny_export: Callable[..., Path]) -> None:
    output, addition = tiny_export("flf"), tiny_export("dlf")
    manifest = read_manifest(addition)
    others = {
        name: component.model_copy(update={"sha256": f"{index}" * 64})
        for index, (name, component) in enumerate(manifest.components.items())
    }
    (addition / MANIFEST_NAME).write_text(manifest.model_copy(update={"components": others}).model_dump_json())
    system = add_system(output, addition).systems["dlf"]
    assert set(system.components.values()) == {f"dlf_{role}" for role in system.components}
    assert system.text_encoder is not None
    assert system.text_encoder.tokenizer == "dlf_text_encoder/tokenizer.json"
    assert (addition / system.text_encoder.tokenizer).is_file()


def test_the_repository_that_is_added_to_is_not_touched(tiny_export: Callable[..., Path]) -> None:
    output, addition = tiny_export("flf"), tiny_export("dlf")

    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in output.rglob("*") if path.is_file()}

    before = content()
    manifest = add_system(output, addition)
    write_configurations(addition, manifest, TritonOptions("cpu", threads=3))
    assert content() == before


def test_what_cannot_be_added_is_refused_before_the_work(tiny_repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has a system flf already"):
        check_addition(tiny_repository, "flf")
    with pytest.raises(ExportError, match=r"nothing to add to: .*no such folder"):
        check_addition(tmp_path / "nowhere", "flf")


def test_systems_that_need_other_crops_stay_apart(tiny_export: Callable[..., Path]) -> None:
    output, addition = tiny_export("flf"), tiny_export("dlf")
    path = addition / MANIFEST_NAME
    path.write_text(read_manifest(addition).model_copy(update={"box_padding": 1.5}).model_dump_json())
    with pytest.raises(ExportError, match=r"box_padding 1\.25, dlf has 1\.5"):
        add_system(output, addition)
