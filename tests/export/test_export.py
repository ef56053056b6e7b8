"""An export is proven against PyTorch, whole or absent, and complete for serving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from cape.checkpoints import load_checkpoint
from cape.manifest import MODEL_FILE, read_manifest
from cli.export import export
from export import graph, parity, repository
from export.components import components
from export.graph import ExportError, write_graph
from export.parity import Differences, Runtime, chain_inputs, run_chain
from export.repository import export_repository

ROLES = ("image_backbone", "text_encoder", "support_fusion", "pose_decoder")


def test_the_manifest_tells_all_that_serving_needs(tiny_repository: Path) -> None:
    manifest = read_manifest(tiny_repository)
    system = manifest.systems["flf"]
    assert set(system.components) == set(ROLES)
    assert (manifest.image_size, manifest.max_keypoints) == (256, 100)
    assert (system.modalities.image, system.modalities.text) == ("required", "required")
    assert system.text_encoder is not None
    assert (tiny_repository / system.text_encoder.tokenizer).is_file()
    decoder = manifest.components["pose_decoder"]
    assert [spec.name for spec in decoder.inputs] == ["features", "support_tokens", "mask", "adjacency"]
    assert decoder.inputs[3].shape == ("B", "K", "K")
    assert {entry.output for entry in system.parity} >= {"chain.keypoints", "pose_decoder.keypoints"}
    assert all(entry.largest <= 1e-4 for entry in system.parity if entry.output.endswith("keypoints"))


def test_graphs_take_any_batch_keypoints_and_shots(tiny_repository: Path) -> None:
    runtime = Runtime({role: tiny_repository / role / "1" / "model.onnx" for role in ROLES})
    configuration = load_configuration(tiny_repository)
    for sizes in ({"B": 1, "S": 1, "K": 1}, {"B": 5, "S": 7, "K": 13}, {"B": 2, "S": 1, "K": 100}):
        inputs = chain_inputs(configuration, None, sizes, seed=0, real=False)
        outputs, mask = run_chain(runtime, inputs)
        assert outputs["keypoints"].shape == (sizes["B"], sizes["K"], 2)
        assert outputs["similarity"].shape == (sizes["B"], sizes["K"], 16, 16)
        assert mask.shape == (sizes["B"], 1, sizes["K"])


def load_configuration(repository: Path):  # type: ignore[no-untyped-def]
    from tests.conftest import tiny_configuration

    assert read_manifest(repository).systems["flf"].model_width == 64
    return tiny_configuration()


def test_answers_do_not_depend_on_who_shares_the_batch(tiny_repository: Path) -> None:
    runtime = Runtime({role: tiny_repository / role / "1" / "model.onnx" for role in ROLES})
    inputs = chain_inputs(load_configuration(tiny_repository), None, {"B": 3, "S": 2, "K": 9}, seed=1, real=False)
    together, _ = run_chain(runtime, inputs)
    for sample in range(3):
        alone, _ = run_chain(runtime, {name: value[sample : sample + 1] for name, value in inputs.items()})
        np.testing.assert_allclose(alone["keypoints"][0], together["keypoints"][sample], atol=1e-5)


def test_outputs_that_are_not_asked_for_are_not_returned(tiny_repository: Path) -> None:
    session = onnxruntime.InferenceSession(str(tiny_repository / "pose_decoder" / "1" / "model.onnx"))
    features = np.zeros((1, 128, 8, 8), np.float32)
    answer = session.run(
        ["keypoints"],
        {
            "features": features,
            "support_tokens": np.zeros((1, 1, 4, 64), np.float32),
            "mask": np.ones((1, 1, 4), np.float32),
            "adjacency": np.zeros((1, 4, 4), np.float32),
        },
    )
    assert len(answer) == 1


def test_large_weights_go_into_a_file_beside_the_graph(tiny_checkpoint: Path, tmp_path: Path) -> None:
    system = load_checkpoint(tiny_checkpoint).system
    fusion = next(part for part in components(system) if part.role == "support_fusion")
    write_graph(fusion, tmp_path / "inside.onnx")
    assert not (tmp_path / "inside.onnx.data").exists()
    write_graph(fusion, tmp_path / "beside.onnx", external_data_from=1000)
    assert (tmp_path / "beside.onnx.data").stat().st_size > 10_000
    assert (tmp_path / "beside.onnx").stat().st_size < (tmp_path / "inside.onnx").stat().st_size - 10_000
    example = fusion.example(seed=3)
    feed = {spec.name: value.numpy() for spec, value in zip(fusion.inputs, example, strict=True)}
    inside, beside = (
        onnxruntime.InferenceSession(str(tmp_path / name)).run(None, feed) for name in ("inside.onnx", "beside.onnx")
    )
    np.testing.assert_array_equal(inside[0], beside[0])
    digest, size = graph.graph_digest(tmp_path / "beside.onnx")
    assert size == sum((tmp_path / n).stat().st_size for n in ("beside.onnx", "beside.onnx.data"))
    with (tmp_path / "beside.onnx.data").open("r+b") as file:
        file.write(b"\xff")
    assert graph.graph_digest(tmp_path / "beside.onnx")[0] != digest


def test_a_graph_that_differs_from_pytorch_is_not_written(
    tiny_checkpoint: Path, tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(component, path, external_data_from=0):  # type: ignore[no-untyped-def]
        # The same weights' graphs, without tracing them again.
        shutil.copy(tiny_repository / component.role / MODEL_FILE, path)
        if component.role == "pose_decoder":
            model = onnx.load(path)
            bias = next(t for t in model.graph.initializer if t.name.endswith("kpt_branch.1.6.bias"))
            values = onnx.numpy_helper.to_array(bias) + np.float32(0.01)
            bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
            onnx.save(model, path)

    monkeypatch.setattr(repository, "write_graph", corrupt)
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match=r"pose_decoder\.keypoints is .* away from PyTorch"):
        export_repository(load_checkpoint(tiny_checkpoint), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_repository_that_is_there_is_not_overwritten(
    tiny_checkpoint: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ExportError, match="is there already; --force replaces it"):
        export_repository(load_checkpoint(tiny_checkpoint), tmp_path)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_nan_counts_as_infinitely_far() -> None:
    differences = Differences()
    differences.add("x", np.array([1.0, 2.0], np.float32), np.array([1.0, np.nan], np.float32))
    (entry,) = differences.entries()
    assert entry.largest == np.inf


def test_the_largest_and_the_999th_permille_difference_are_told_apart() -> None:
    differences = Differences()
    expected = np.zeros(2000, np.float32)
    actual = np.full(2000, 1e-6, np.float32)
    actual[7] = 1e-3
    differences.add("x", expected, actual)
    (entry,) = differences.entries()
    assert entry.largest == pytest.approx(1e-3)
    assert entry.p999 == pytest.approx(1e-6)


def test_only_peaks_that_are_equal_up_to_rounding_are_left_out() -> None:
    maps = np.zeros((1, 2, 2, 2), np.float32)
    maps[0, :, 0, 0] = 1.0
    maps[0, 0, 1, 1] = 1.0 - 1e-6  # keypoint 0: two equal peaks
    maps[0, 1, 1, 1] = 0.5  # keypoint 1: one peak
    other = maps.copy()
    other[0, :, 1, 1] = 1.1  # ONNX Runtime picks the other cell for both
    differences = Differences()
    counted = parity._counted({"similarity": maps}, {"similarity": other}, np.ones((1, 2), bool), differences)
    assert counted.tolist() == [[False, True]]
    assert differences.ties == 1


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    run = CliRunner().invoke
    answer = run(export, ["--output", str(tmp_path / "out")])
    assert answer.exit_code == 2
    assert "give one of --checkpoint and --untrained" in answer.output
    answer = run(export, ["--checkpoint", str(tmp_path), "--output", str(tmp_path / "out")])
    assert answer.exit_code == 1
    assert "config.json: missing" in answer.output
    (tmp_path / "flf.json").write_text(json.dumps({"head": {"width": 0}}))
    answer = run(export, ["--untrained", str(tmp_path / "flf.json"), "--output", str(tmp_path / "out")])
    assert answer.exit_code == 1
    assert "head.width" in answer.output
    assert not (tmp_path / "out").exists()


def test_dropout_is_off_in_what_is_traced(tiny_checkpoint: Path) -> None:
    system = load_checkpoint(tiny_checkpoint).system.train()
    decoder = next(part for part in components(system) if part.role == "pose_decoder")
    example = decoder.example(seed=1)
    with torch.inference_mode():
        torch.testing.assert_close(decoder.module(*example)[0], decoder.module(*example)[0], atol=0, rtol=0)
