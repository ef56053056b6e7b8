"""Models on fixed buffers: the same code that runs on a GPU, with buffers in host memory and without graphs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from cape.manifest import MODEL_FILE, Manifest, read_manifest
from service.engines import onnx_runtime
from service.engines.bound_models import BoundModels, best_parts, shape_of
from service.engines.device_memory import DeviceError, HostMemory
from service.engines.onnx_runtime import OnnxRuntimeEngine

KEYPOINTS = ["keypoints", "scores"]


@pytest.fixture(scope="module")
def sessions(tiny_repository: Path) -> dict[str, onnxruntime.InferenceSession]:
    names = read_manifest(tiny_repository).components
    return {
        name: onnxruntime.InferenceSession(tiny_repository / name / MODEL_FILE, providers=["CPUExecutionProvider"])
        for name in names
    }


@pytest.fixture(scope="module")
def manifest(tiny_repository: Path) -> Manifest:
    return read_manifest(tiny_repository)


@pytest.fixture(scope="module")
def bound(sessions: dict[str, onnxruntime.InferenceSession], manifest: Manifest) -> Iterator[BoundModels]:
    models = BoundModels(sessions, manifest, HostMemory(), batches=(1, 2))
    models.warm_up()
    yield models
    models.close()


def query(bound: BoundModels, sizes: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    specs = bound.specs("flf_query")
    assert specs is not None
    random = np.random.default_rng(seed)
    return {
        spec.name: random.integers(0, 256, shape_of(spec, sizes), dtype=np.uint8)
        if spec.dtype == "uint8"
        else random.random(shape_of(spec, sizes), dtype=np.float32)
        for spec in specs[0]
    }


def expected(sessions: dict[str, onnxruntime.InferenceSession], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    (features,) = sessions["image_backbone"].run(["features"], {"image": inputs["image"]})
    rest = {name: array for name, array in inputs.items() if name != "image"}
    return sessions["pose_decoder"].run(KEYPOINTS, {"features": features, **rest})


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_a_query_answers_as_backbone_and_decoder_do_one_after_the_other(bound, sessions, batch: int) -> None:
    sizes = {"B": batch, "K": 24}
    inputs = query(bound, sizes)
    answer = bound.run("flf_query", inputs, sizes, KEYPOINTS)
    for name, value in zip(KEYPOINTS, expected(sessions, inputs), strict=True):
        np.testing.assert_allclose(answer[name], value, atol=1e-4)


def test_a_number_of_keypoints_outside_the_buckets_is_answered_too(bound, sessions) -> None:
    sizes = {"B": 3, "K": 7}
    inputs = query(bound, sizes)
    answer = bound.run("flf_query", inputs, sizes, ["keypoints"])
    assert answer["keypoints"].shape == (3, 7, 2)
    np.testing.assert_allclose(answer["keypoints"], expected(sessions, inputs)[0], atol=1e-4)


def test_what_the_buffers_do_not_hold_is_run_without_them(bound, sessions) -> None:
    inputs = {name: np.ones((2, 1, 40), np.int64) for name in ("input_ids", "attention_mask")}
    assert not bound.takes("text_encoder", {"B": 2, "K": 1, "T": 40})
    (value,) = sessions["text_encoder"].run(["embeddings"], inputs)
    np.testing.assert_array_equal(bound.run_plainly("text_encoder", inputs, ["embeddings"])["embeddings"], value)


def test_callers_at_the_same_time_get_their_own_answers(bound, sessions) -> None:
    sizes = {"B": 1, "K": 24}
    asked = [query(bound, sizes, seed) for seed in range(6)]
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = bound.run("flf_query", asked[number], sizes, ["keypoints"])["keypoints"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, inputs in enumerate(asked):
        np.testing.assert_allclose(answers[number], expected(sessions, inputs)[0], atol=1e-4)


@pytest.mark.parametrize(
    ("items", "parts"),
    [
        (1, [1]),
        (3, [4]),  # padding one costs less than a run of 2 and one of 1
        (17, [16, 1]),  # padding 15 costs more than another run
        (20, [16, 4]),
        (31, [32]),
    ],
)
def test_batches_are_cut_where_that_takes_least_time(items: int, parts: list[int]) -> None:
    # As measured on an H200 with CUDA graphs, in milliseconds; 2, 4 and 16 are between.
    assert best_parts(items, {1: 4.1, 2: 4.5, 4: 5.5, 8: 7.8, 16: 12.0, 32: 21.6}) == parts


def test_disagreement_at_warm_up_is_an_error(sessions, manifest: Manifest) -> None:
    class Broken(HostMemory):
        def download(self, array: np.ndarray, address: int) -> None:
            array[...] = 0

    models = BoundModels(sessions, manifest, Broken(), batches=(1,))
    with pytest.raises(DeviceError, match="flf: keypoints on fixed buffers differ"):
        models.warm_up()
    models.close()


def test_an_engine_without_a_cuda_runtime_says_so_and_runs_the_ordinary_way(
    tiny_repository: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_runtime, "GRAPH_PROVIDER", "CPUExecutionProvider")
    with caplog.at_level(logging.WARNING):
        engine = OnnxRuntimeEngine(tiny_repository, manifest, 1, ["CPUExecutionProvider"])
    assert "CUDA graphs are off: libcudart.so is not loaded" in caplog.text
    assert engine.query_model("flf") is None
    image = np.zeros((1, manifest.image_size, manifest.image_size, 3), np.uint8)
    assert engine.run("image_backbone", {"image": image}, ["features"])["features"].shape[0] == 1
    engine.close()
