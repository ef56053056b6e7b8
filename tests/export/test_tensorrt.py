"""Engines for the paper's RTX 3060 are really built, without a card, and are what they should be."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from cape.checkpoints import load_checkpoint
from cape.manifest import read_manifest
from export.graph import ExportError
from export.precision import lower_precision
from export.tensorrt.build import BuildOptions, build_engine
from export.tensorrt.editions import EDITIONS, compute_capabilities, load_bindings
from export.tensorrt.engines import BuiltEngine, EngineRequest, build_engines, measured_parity
from export.tensorrt.profiles import profiles
from export.triton.options import LARGEST_BATCH

MISSING = "TensorRT for RTX is missing: pip install 'capeserve[tensorrt-rtx]' (Linux and Windows on x86-64)"

RTX = EngineRequest("rtx", ("sm86",), "float16")


@pytest.fixture(scope="module")
def repository(tiny_export: Callable[..., Path]) -> Path:
    return tiny_export()


@pytest.fixture(scope="module")
def built(repository: Path) -> dict[str, BuiltEngine]:
    """Every component of the tiny FLF, for SM86 in float16."""
    pytest.importorskip("tensorrt_rtx_bindings", reason=MISSING)
    steps: list[tuple[str, int, int]] = []
    engines = build_engines(repository, RTX, progress=lambda *step: steps.append(step))
    assert steps[-1] == ("done", 4, 4)
    return {engine.component: engine for engine in engines}


def test_every_component_has_an_engine_with_the_manifests_inputs_and_outputs(repository, built) -> None:
    manifest = read_manifest(repository)
    assert set(built) == set(manifest.components)
    types = {"uint8": "UINT8", "int64": "INT64", "float32": "FLOAT"}
    for name, engine in built.items():
        assert engine.path.stat().st_size == len(engine.engine.plan) > 100_000
        for specs, tensors in (
            (manifest.components[name].inputs, engine.engine.inputs),
            (manifest.components[name].outputs, engine.engine.outputs),
        ):
            expected = {
                (spec.name, types[spec.dtype], tuple(-1 if isinstance(size, str) else size for size in spec.shape))
                for spec in specs
            }
            assert {(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors} == expected


def test_products_run_in_half_precision_but_for_those_that_keypoints_are_read_off(built) -> None:
    assert set(built["image_backbone"].engine.products) == {"HALF"}
    assert set(built["text_encoder"].engine.products) == {"HALF"}
    decoder = built["pose_decoder"].engine
    assert decoder.products["HALF"] > decoder.products["FLOAT"] > 0
    for layer in decoder.layers:
        # Soft-arg-max, attention and the places themselves.
        if layer.kind == "SOFTMAX" or layer.name.startswith("node_sigmoid"):
            assert layer.inputs == ("FLOAT",), layer
    refinement = [layer for layer in decoder.layers if layer.name == "node_matmul_6"]
    assert all(layer.inputs == ("FLOAT", "FLOAT") for layer in refinement)


def test_the_report_beside_an_engine_says_what_it_is(repository, built) -> None:
    engine = built["pose_decoder"]
    report = json.loads(engine.path.with_suffix(".json").read_text())
    assert (report["targets"], report["precision"], report["weights"]) == (["sm86"], "float16", "inside")
    assert report["graph_sha256"] == read_manifest(repository).components["pose_decoder"].sha256
    assert report["products_by_type"] == engine.engine.products
    assert set(report["products_in_float32_because_of"]) == {"proposal_generator", "kpt_branch"}
    assert [profile["sizes"]["K"] for profile in report["profiles"]] == [
        [1, 24, 24],
        [25, 48, 48],
        [49, 72, 72],
        [73, 100, 100],
    ]


def test_profiles_cover_every_size_that_the_manifest_allows(repository) -> None:
    manifest = read_manifest(repository)
    for role, component in manifest.systems["flf"].components.items():
        spec = manifest.components[component]
        found = profiles(role, spec, manifest)
        assert max(profile.sizes["B"][2] for profile in found) == LARGEST_BATCH.get(role, spec.max_batch_size)
        counts = [profile.sizes["K"] for profile in found if "K" in profile.sizes]
        covered = {count for smallest, _, largest in counts for count in range(smallest, largest + 1)}
        assert covered == (set(range(1, 101)) if counts else set())
        for profile in found:
            assert set(profile.shapes) == {tensor.name for tensor in spec.inputs}
            for low, middle, high in profile.shapes.values():
                assert all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True))


def test_bfloat16_and_several_cards_are_built_as_asked(repository) -> None:
    bindings = pytest.importorskip("tensorrt_rtx_bindings", reason=MISSING)
    capabilities = compute_capabilities(EDITIONS["rtx"], bindings, ("sm86", "sm89"))
    manifest = read_manifest(repository)
    graph = onnx.load(repository / "support_fusion" / "1" / "model.onnx")
    found = profiles("support_fusion", manifest.components["support_fusion"], manifest)[:1]
    plans = {}
    for precision in ("float32", "bfloat16"):
        lowered = lower_precision(graph, precision).model.SerializeToString()
        plans[precision] = build_engine(bindings, lowered, found, BuildOptions(capabilities))
    assert set(plans["float32"].products) == {"FLOAT"}
    assert plans["bfloat16"].products["BF16"] > 0


def test_what_cannot_be_built_is_said_by_name(repository, monkeypatch) -> None:
    rtx, standard = EDITIONS["rtx"], EDITIONS["standard"]
    bindings = pytest.importorskip("tensorrt_rtx_bindings", reason=MISSING)
    with pytest.raises(ExportError, match="cannot build for 'sm90'; it can for sm75, sm80, sm86"):
        compute_capabilities(rtx, bindings, ("sm90",))
    with pytest.raises(ExportError, match="needs --target: sm75"):
        build_engines(repository, EngineRequest("rtx"))
    with pytest.raises(ExportError, match="builds for the card in this machine"):
        compute_capabilities(standard, bindings, ("sm86",))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ExportError, match=r"TensorRT is not installed: pip install 'capeserve\[tensorrt\]'"):
        load_bindings(standard)


def test_a_graph_that_tensorrt_does_not_understand_is_named_and_old_engines_stay(repository, built, tmp_path) -> None:
    broken = Path(shutil.copytree(repository, tmp_path / "broken"))
    before = RTX.path(broken, "image_backbone").read_bytes()
    (broken / "image_backbone" / "1" / "model.onnx").write_bytes(b"")
    with pytest.raises(ExportError, match=r"^image_backbone: "):
        build_engines(broken, RTX)
    assert RTX.path(broken, "image_backbone").read_bytes() == before


def test_engines_are_run_only_where_there_is_a_card(built, tiny_checkpoint) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; the test is of one without")
    with pytest.raises(ExportError, match="torch finds none here"):
        measured_parity(load_checkpoint(tiny_checkpoint), list(built.values()), RTX)
