"""Exported CapeLLM graphs, decoded without torch, say what PyTorch says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cape.capellm.grammar import AnswerGrammar
from cape.manifest import LanguageSystemManifest, Manifest, read_manifest
from cape.models.capellm.checkpoint import CapeLlmCheckpoint, load_capellm, untrained_capellm
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import SupportDefinition
from cli.export import export
from export.add_system import add_system
from export.capellm import parity as capellm_parity
from export.capellm import repository as capellm_repository
from export.capellm.graphs import DECODER, VISION
from export.capellm.parity import Decoded, decode
from export.capellm.repository import export_capellm_repository
from export.graph import ExportError
from export.parity import Runtime
from tests.cape.capellm.conftest import CATEGORY, tiny, tiny_tokenizer
from tests.conftest import ExportedCapeLlm


@pytest.fixture(scope="module")
def predictor(tiny_capellm: ExportedCapeLlm) -> CapeLlmPredictor:
    checkpoint = load_capellm(tiny_capellm.checkpoint)
    return CapeLlmPredictor(checkpoint.model, checkpoint.tokenizer)


@pytest.fixture(scope="module")
def runtime(tiny_capellm: ExportedCapeLlm) -> Runtime:
    return Runtime({name: tiny_capellm.repository / name / "1" / "model.onnx" for name in (VISION, DECODER)}, 1)


def language(manifest: Manifest) -> LanguageSystemManifest:
    return manifest.language_systems["capellm"]


@pytest.fixture(scope="module")
def decoded(tiny_capellm: ExportedCapeLlm, predictor: CapeLlmPredictor, runtime: Runtime) -> Callable[..., Decoded]:
    """Pairs of an image and a keypoint → answers of the exported graphs."""
    grammar, system = AnswerGrammar(predictor.tokenizer), language(read_manifest(tiny_capellm.repository))
    image_tokens = runtime.run(VISION, {"image": tiny_capellm.images})["image_tokens"]
    opening, questions = predictor.prompts(SupportDefinition(CATEGORY.name, CATEGORY.keypoints))

    def ask(asked: list[tuple[int, int]], readout: Any = "greedy") -> Decoded:
        pairs = [(image, questions[keypoint]) for image, keypoint in asked]
        return decode(
            lambda inputs: runtime.run(DECODER, inputs), grammar, system.cache, image_tokens, opening, pairs, readout
        )

    return ask


def test_image_tokens_are_those_of_pytorch(
    tiny_capellm: ExportedCapeLlm, predictor: CapeLlmPredictor, runtime: Runtime
) -> None:
    for images in (tiny_capellm.images, tiny_capellm.images[:1]):
        found = runtime.run(VISION, {"image": images})["image_tokens"]
        np.testing.assert_allclose(found, predictor.encode(list(images)).numpy(), atol=1e-4)


@pytest.mark.parametrize("readout", ["greedy", "expectation"])
def test_answers_are_those_of_pytorch(
    tiny_capellm: ExportedCapeLlm, predictor: CapeLlmPredictor, decoded: Callable[..., Decoded], readout: Any
) -> None:
    prompts = predictor.prompts(SupportDefinition(CATEGORY.name, CATEGORY.keypoints))
    expected = predictor.locate(predictor.encode(list(tiny_capellm.images)), prompts, readout)
    found = decoded([(image, keypoint) for image in range(4) for keypoint in range(5)], readout)
    assert found.answers == expected.answers
    np.testing.assert_allclose(found.keypoints, expected.keypoints.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-4)


def test_questions_of_several_images_in_any_order_share_a_batch(decoded: Callable[..., Decoded]) -> None:
    asked = [(3, 1), (0, 4), (3, 0), (1, 2)]
    assert decoded(asked).answers == tuple(decoded([one]).answers[0] for one in asked)


def test_the_manifest_tells_all_that_serving_needs(tiny_capellm: ExportedCapeLlm) -> None:
    manifest = read_manifest(tiny_capellm.repository)
    system = language(manifest)
    assert manifest.support_systems == {}
    assert system.components == {VISION: VISION, DECODER: DECODER}
    assert (system.modalities.image, system.modalities.text) == ("unused", "required")
    assert (system.width, system.image_tokens, tuple(dict(system.cache).values())) == (64, 16, (2, 2, 16))
    assert (tiny_capellm.repository / system.tokenizer).is_file()
    assert (manifest.image_size, manifest.max_keypoints, system.limits.sequence) == (56, 100, 1024)
    parity = {entry.output: entry.largest for entry in system.parity}
    assert parity["chain.answers"] == 0
    assert parity["chain.keypoints"] == 0
    assert len(manifest.source.sha256) == 64


def test_the_version_changes_with_how_the_model_is_asked(tiny_capellm: ExportedCapeLlm) -> None:
    manifest = read_manifest(tiny_capellm.repository)
    other = language(manifest).model_copy(update={"readout": "expectation"})
    assert manifest.model_copy(update={"systems": {"capellm": other}}).version("capellm") != manifest.version("capellm")


def test_wrong_fields_are_named_as_the_document_has_them(tiny_capellm: ExportedCapeLlm, tmp_path: Path) -> None:
    document = json.loads((tiny_capellm.repository / "cape.json").read_text())
    for change, complaint in (
        ({"image_tokens": 0}, r"systems\.capellm\.image_tokens: "),
        ({"components": {VISION: VISION}}, r"systems\.capellm: .*components: no capellm_decoder"),
        ({"pipeline": "oracle"}, r"systems\.capellm: .*oracle"),
    ):
        system = document["systems"]["capellm"] | change
        (tmp_path / "cape.json").write_text(json.dumps(document | {"systems": {"capellm": system}}))
        with pytest.raises(ValueError, match=complaint):
            read_manifest(tmp_path)


def test_answers_that_are_not_pytorchs_leave_nothing_behind(
    tiny_capellm: ExportedCapeLlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def already_exported(model: object, folder: Path) -> None:
        shutil.copytree(tiny_capellm.repository, folder, dirs_exist_ok=True)

    def other(*arguments: Any) -> Decoded:
        found = decode(*arguments)
        return found._replace(answers=(found.answers[0][::-1], *found.answers[1:]))

    monkeypatch.setattr(capellm_repository, "export_capellm", already_exported)
    monkeypatch.setattr(capellm_parity, "decode", other)
    with pytest.raises(ExportError, match=r"1 of 1 answers are not PyTorch's"):
        export_capellm_repository(load_capellm(tiny_capellm.checkpoint), tmp_path / "repository")
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_not_text_are_refused(tmp_path: Path) -> None:
    configuration = tiny(answer="token")
    checkpoint = CapeLlmCheckpoint(
        untrained_capellm(configuration), tiny_tokenizer(configuration), Path("tiny"), "0" * 64
    )
    with pytest.raises(ExportError, match=r"tiny: instruction\.answer is 'token'"):
        export_capellm_repository(checkpoint, tmp_path / "repository")


def test_a_repository_of_other_crops_does_not_take_it(
    tiny_capellm: ExportedCapeLlm, tiny_export: Callable[..., Path], tmp_path: Path
) -> None:
    addition = Path(shutil.copytree(tiny_capellm.repository, tmp_path / "addition"))
    with pytest.raises(ExportError, match="has image_size 256, capellm has 56: export it on its own"):
        add_system(tiny_export("flf"), addition)


def test_a_repository_of_equal_crops_takes_it(
    tiny_capellm: ExportedCapeLlm, tiny_export: Callable[..., Path], tmp_path: Path
) -> None:
    repository = tiny_export("flf")
    addition = Path(shutil.copytree(tiny_capellm.repository, tmp_path / "addition"))
    theirs, ours = read_manifest(repository), read_manifest(addition)
    (addition / "cape.json").write_text(ours.model_copy(update={"image_size": 256}).model_dump_json())
    both = add_system(repository, addition)
    assert read_manifest(addition) == both
    assert (list(both.support_systems), list(both.language_systems)) == (["flf"], ["capellm"])
    assert both.components == theirs.components | ours.components
    assert (both.version("flf"), both.version("capellm")) == (theirs.version("flf"), ours.version("capellm"))
    assert language(both).source == ours.source
    assert (addition / language(both).tokenizer).is_file()


def test_a_capellm_checkpoint_is_referred_to_its_own_subcommand(tiny_capellm: ExportedCapeLlm, tmp_path: Path) -> None:
    flags = ["--checkpoint", str(tiny_capellm.checkpoint), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(export, flags)
    assert result.exit_code == 2
    assert "use `capeserve export capellm`" in result.output


def test_options_before_the_subcommand_are_refused(tiny_capellm: ExportedCapeLlm, tmp_path: Path) -> None:
    flags = ["--checkpoint", str(tiny_capellm.checkpoint), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(export, ["--force", "capellm", *flags])
    assert result.exit_code == 2
    assert "options of capellm follow its name" in result.output


def test_another_system_is_no_capellm(tiny_checkpoint: Path, tmp_path: Path) -> None:
    flags = ["capellm", "--checkpoint", str(tiny_checkpoint), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(export, flags)
    assert result.exit_code == 1
    assert str(tiny_checkpoint) in result.output


def test_the_help_of_export_fits_on_a_screen() -> None:
    lines = CliRunner().invoke(export, ["--help"], terminal_width=110).output.splitlines()
    assert len(lines) <= 50, len(lines)
