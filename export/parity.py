"""Does the exported repository answer as PyTorch does? Measured over shapes and inputs, not assumed.

Every component runs alone on random inputs, and the four run in sequence on random and on real inputs, in ONNX
Runtime and in PyTorch float32, over batch sizes, keypoint counts and shots.
"""

from __future__ import annotations

import importlib.resources
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from tokenizers import Tokenizer

from cape.configuration import SystemConfiguration
from cape.geometry import Crop
from cape.manifest import ParityEntry
from cape.models.system import System
from export.components import Component

KEYPOINT_TOLERANCE = 1e-4
"""Largest difference of a keypoint, as a fraction of the crop, that an export may have."""

TIE = 1e-4
"""Two cells of a similarity map whose difference is below this share of the map's spread are equal up to
rounding. Which of them is the peak is then undefined, in PyTorch too, and so is the keypoint."""

COMPONENT_SIZES = (
    {"B": 1, "S": 1, "K": 1, "T": 3},
    {"B": 2, "S": 1, "K": 17, "T": 8},
    {"B": 3, "S": 5, "K": 24, "T": 16},
    {"B": 1, "S": 2, "K": 100, "T": 77},
)

CHAIN_SIZES = (
    {"B": 1, "S": 1, "K": 17},
    {"B": 2, "S": 1, "K": 68},
    {"B": 2, "S": 5, "K": 9},
    {"B": 4, "S": 1, "K": 1},
)

TEXTS = (
    "left eye", "right eye", "nose", "the tip of the left ear", "right ear", "left shoulder", "right shoulder",
    "left elbow", "right elbow", "left wrist", "right wrist", "root of tail", "front left wheel", "top of the backrest",
    "left hip", "right knee", "the outer corner of the mouth on the viewer's left side, next to the cheek",
)  # fmt: skip

Arrays = dict[str, npt.NDArray[np.generic]]


class Differences:
    """Absolute differences per output, collected over cases."""

    def __init__(self) -> None:
        self._differences: dict[str, list[npt.NDArray[np.float32]]] = {}
        self._values: dict[str, list[npt.NDArray[np.float32]]] = {}
        self.ties = 0
        """Keypoints left out because their peak is undefined up to rounding."""

    def add(self, output: str, expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> None:
        """Compares one output of one case; NaN counts as infinitely far."""
        difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
        difference[np.isnan(difference)] = np.inf
        self._differences.setdefault(output, []).append(difference.astype(np.float32).ravel())
        self._values.setdefault(output, []).append(expected.astype(np.float32).ravel())

    def entries(self) -> tuple[ParityEntry, ...]:
        """One entry per output, in the order in which they were first added."""
        return tuple(
            ParityEntry(
                output=output,
                cases=len(parts),
                largest=float(joined.max(initial=0.0)),
                p999=float(np.quantile(joined, 0.999, method="higher")) if joined.size else 0.0,
                scale=float(np.std(np.concatenate(self._values[output]))) if joined.size else 0.0,
            )
            for output, parts in self._differences.items()
            for joined in [np.concatenate(parts)]
        )


class ComponentRuntime(Protocol):
    """Runs components of an export by role."""

    def run(self, role: str, inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs one component on a batch; inputs that it does not take are passed over; outputs by name."""


class Runtime:
    """Runs exported components in ONNX Runtime on the CPU."""

    def __init__(self, graphs: Mapping[Any, Path], threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._sessions = {
            role: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for role, path in graphs.items()
        }

    def run(self, role: str, inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs one component on a batch; outputs by name."""
        session = self._sessions[role]
        wanted = {value.name for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        feed = {name: value for name, value in inputs.items() if name in wanted}
        return dict(zip(names, session.run(names, feed), strict=True))


def compare_component(component: Component, runtime: ComponentRuntime, differences: Differences) -> None:
    """Runs a component alone, at several sizes, on random inputs."""
    for seed, sizes in enumerate(COMPONENT_SIZES):
        tensors = component.example(seed=seed + 1, **sizes)
        inputs = {spec.name: tensor.numpy() for spec, tensor in zip(component.inputs, tensors, strict=True)}
        with torch.inference_mode():
            answer = component.module(*tensors)
        outputs = (answer,) if isinstance(answer, torch.Tensor) else answer
        expected = {spec.name: value.numpy() for spec, value in zip(component.outputs, outputs, strict=True)}
        actual = runtime.run(component.role, inputs)
        counted = None
        if component.role == "pose_decoder":
            counted = _counted(expected, actual, inputs["mask"].max(axis=1) > 0, differences)
        for name, value in expected.items():
            _add(differences, f"{component.role}.{name}", name, value, actual[name], counted)


def compare_chain(
    system: System, runtime: ComponentRuntime, tokenizer: Path | None, differences: Differences
) -> Iterator[None]:
    """Runs query image to keypoints, on random and on real inputs; yields after each case."""
    for (seed, sizes), real in itertools.product(enumerate(CHAIN_SIZES), (False, True)):
        inputs = chain_inputs(system.configuration, tokenizer, sizes, seed, real=real)
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        with torch.inference_mode():
            pose = system(**tensors)
        expected = {"keypoints": pose.keypoints, "scores": pose.scores, "similarity": pose.similarity}
        actual, mask = run_chain(runtime, inputs)
        numpy = {name: value.numpy() for name, value in expected.items()}
        counted = _counted(numpy, actual, mask.max(axis=1) > 0, differences)
        for name, value in numpy.items():
            _add(differences, f"chain.{name}", name, value, actual[name], counted)
        yield


def run_chain(
    runtime: ComponentRuntime, inputs: Arrays
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """The components in sequence, as the service runs them.

    Returns:
        The pose decoder's outputs, and the support's mask [B, P, K].
    """
    support: Arrays = {}
    if "support" in inputs:
        images = inputs["support"]
        flat = runtime.run("image_backbone", {"image": images.reshape(-1, *images.shape[2:])})["features"]
        support["features"] = flat.reshape(*images.shape[:2], *flat.shape[1:])
        support |= {name: inputs[name] for name in ("keypoints", "visible")}
    if "input_ids" in inputs:
        support |= runtime.run("text_encoder", inputs)
    if "embeddings" in inputs:
        support["embeddings"] = inputs["embeddings"]
    tokens = runtime.run("support_fusion", support)
    query = runtime.run("image_backbone", {"image": inputs["query"]})
    return runtime.run("pose_decoder", {**query, **tokens, "adjacency": inputs["adjacency"]}), tokens["mask"]


def chain_inputs(
    configuration: SystemConfiguration,
    tokenizer: Path | None,
    sizes: Mapping[str, int],
    seed: int,
    *,
    real: bool,
) -> Arrays:
    """Inputs of `System.forward`: random ones, or crops of a photograph and keypoint texts as people write them."""
    generator = np.random.default_rng(seed)
    batch, shots, keypoints = sizes["B"], sizes["S"], sizes["K"]
    side = configuration.backbone.image_size
    crops = photograph_crops(generator, batch * (1 + shots), side) if real else None
    if crops is None:
        crops = generator.integers(0, 256, (batch * (1 + shots), side, side, 3), dtype=np.uint8)
    inputs: Arrays = {
        "query": crops[:batch],
        "adjacency": np.zeros((batch, keypoints, keypoints), np.float32),
    }
    for first in range(keypoints - 1):
        inputs["adjacency"][:, [first, first + 1], [first + 1, first]] = 1
    if configuration.reads_images:
        inputs["support"] = crops[batch:].reshape(batch, shots, side, side, 3)
        inputs["keypoints"] = generator.random((batch, shots, keypoints, 2), dtype=np.float32)
        inputs["visible"] = (generator.random((batch, shots, keypoints)) > 0.15).astype(np.float32)
    if configuration.text is not None:
        ids, mask = _token_ids(configuration, tokenizer if real else None, batch, keypoints, generator)
        inputs["input_ids"], inputs["attention_mask"] = ids, mask
    return inputs


def photograph_crops(generator: np.random.Generator, count: int, side: int) -> npt.NDArray[np.uint8]:
    """Random crops of a photograph, uint8 [count, side, side, 3]."""
    encoded = importlib.resources.files("export").joinpath("parity_photograph.jpg").read_bytes()
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    image = np.asarray(decoded, dtype=np.uint8)
    height, width = image.shape[:2]
    boxes = generator.random((count, 4))
    return np.stack(
        [
            Crop.around(
                x * width / 2, y * height / 2, width * (0.3 + w / 5), height * (0.3 + h / 5), size=side
            ).extract(image)
            for x, y, w, h in boxes
        ]
    )


def _token_ids(
    configuration: SystemConfiguration,
    tokenizer: Path | None,
    batch: int,
    keypoints: int,
    generator: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    assert configuration.text is not None
    if tokenizer is None:
        ids = generator.integers(1, 1000, (batch, keypoints, 12))
        lengths = generator.integers(2, 13, (batch, keypoints, 1))
        return ids, (np.arange(12) < lengths).astype(np.int64)
    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.enable_truncation(configuration.text.max_tokens)
    encoder.enable_padding()
    texts = [TEXTS[index % len(TEXTS)] for index in range(keypoints)]
    encodings = encoder.encode_batch(texts)
    shape = (batch, keypoints, len(encodings[0].ids))
    ids = np.broadcast_to(np.array([e.ids for e in encodings], np.int64), shape)
    mask = np.broadcast_to(np.array([e.attention_mask for e in encodings], np.int64), shape)
    return ids.copy(), mask.copy()


def _counted(
    expected: Mapping[str, npt.NDArray[np.float32]],
    actual: Mapping[str, npt.NDArray[np.float32]],
    located: npt.NDArray[np.bool_],
    differences: Differences,
) -> npt.NDArray[np.bool_]:
    """Keypoints [B, K] that the support describes and whose peak is defined."""
    maps = expected["similarity"].reshape(*located.shape, -1)
    chosen = actual["similarity"].reshape(*located.shape, -1).argmax(-1)
    behind = maps.max(-1) - np.take_along_axis(maps, chosen[..., None], -1)[..., 0]
    spread = maps.std(-1)
    tied = (maps.argmax(-1) != chosen) & (behind <= TIE * np.maximum(spread, 1e-12))
    differences.ties += int((tied & located).sum())
    return located & ~tied


def _add(
    differences: Differences,
    output: str,
    name: str,
    expected: npt.NDArray[np.float32],
    actual: npt.NDArray[np.float32],
    counted: npt.NDArray[np.bool_] | None,
) -> None:
    if counted is not None and name in ("keypoints", "scores", "similarity", "proposals"):
        differences.add(output, expected[counted], actual[counted])
    else:
        differences.add(output, expected, actual)
