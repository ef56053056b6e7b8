"""Rebuilds the checkpoints and inputs behind the golden files of the published GraphCape and CapeX code.

A published checkpoint is too large to keep, so the golden files were made with one whose every parameter is a
function of its own name: the recipe below is the one they were made with, and must not change.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cape.checkpoints import load_state
from cape.models.system import Pose, System
from cape.published.key_names import convert
from cape.published.recognition import recognise
from export.components import components
from export.graph import write_graph
from export.parity import Runtime, run_chain

FOLDER = Path(__file__).resolve().parent / "data" / "golden"
CASES = ("graphcape_t_mlp", "capex_t", "graphcape_s_1shot")
SLOTS = 100
"""Keypoint slots of the golden files; samples fill the first few."""


def _generator(tag: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(tag.encode()))


def parameter(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Value of the parameter called `name`."""
    x = _generator(name).standard_normal(shape).astype(np.float32)
    if name.endswith("logit_scale"):
        return (math.log(10) + 0.1 * _generator(name).standard_normal(shape)).astype(np.float32)
    if ".mlp.6." in name:
        x = 0.25 * x
    if name in ("keypoint_head.text_proj.weight", "keypoint_head.query_proj.weight"):
        x = 6 * x
    if len(shape) >= 2:
        return (x / math.sqrt(int(np.prod(shape[1:])))).astype(np.float32)
    if name.endswith("weight"):
        return (1 + 0.1 * x).astype(np.float32)
    return (0.05 * x).astype(np.float32)


def images(tag: str, count: int) -> npt.NDArray[np.uint8]:
    """RGB images [count, 256, 256, 3]."""
    cells = _generator(tag).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    return np.repeat(np.repeat(cells, 8, 1), 8, 2)


def text_embeddings(tag: str, sample: int, keypoints: int, dimension: int) -> npt.NDArray[np.float32]:
    """Unit-length embeddings [keypoints, dimension]."""
    t = _generator(f"{tag}.text{sample}").standard_normal((keypoints, dimension))
    return (t / np.linalg.norm(t, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Golden:
    """A published model's checkpoint, inputs and answers.

    `inputs` holds what our components take: query, adjacency, and support, keypoints, visible or embeddings.
    """

    state: dict[str, npt.NDArray[np.float32]]
    inputs: dict[str, npt.NDArray[np.generic]]
    mask: npt.NDArray[np.float32]  # [B, K]
    output: npt.NDArray[np.float32]  # [layers, B, K, 2]
    proposals: npt.NDArray[np.float32]  # [B, K, 2], expectation over the whole map
    similarity: npt.NDArray[np.float32]  # [B, K, 16, 16]
    features: npt.NDArray[np.float32]  # [B, 768, 8, 8]


def published_system(state: Mapping[str, npt.NDArray[np.float32]]) -> System:
    """Published weights in our model, in evaluation mode; CapeX without its text tower, as embeddings are given."""
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    system = System(recognise(tensors))
    tower = {key: value for key, value in system.state_dict().items() if key.startswith("text_encoder.")}
    load_state(system, {**tower, **convert(tensors)}, "golden")
    return system.eval()


def answer(system: System, case: Golden) -> Pose:
    """What PyTorch says to a golden file's inputs."""
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    with torch.inference_mode():
        if "embeddings" in inputs:
            tokens, mask = system.fuse_support(embeddings=inputs["embeddings"])
        else:
            support = inputs["support"]
            maps = system.encode_image(support.flatten(0, 1)).unflatten(0, support.shape[:2])
            tokens, mask = system.fuse_support(maps, inputs["keypoints"], inputs["visible"])
        return system.decode_pose(system.encode_image(inputs["query"]), tokens, mask, inputs["adjacency"])


def exported_answer(
    system: System, case: Golden, folder: Path, *, backbone: bool = True
) -> dict[str, npt.NDArray[np.float32]]:
    """What the exported graphs say to a golden file's inputs; the graphs are left in `folder`.

    Args:
        system: from `published_system`.
        case: what it was made of.
        folder: must exist.
        backbone: export the image backbone too; False begins with the published features, for cases without support
            images.
    """
    graphs: dict[str, Path] = {}
    # The golden files give embeddings.
    left_out = {"text_encoder"} if backbone else {"text_encoder", "image_backbone"}
    for part in components(system):
        if part.role not in left_out:
            graphs[part.role] = folder / f"{part.role}.onnx"
            write_graph(part, graphs[part.role])
    runtime = Runtime(graphs)
    if backbone:
        return run_chain(runtime, dict(case.inputs))[0]
    tokens = runtime.run("support_fusion", case.inputs)
    return runtime.run("pose_decoder", {**case.inputs, **tokens, "features": case.features})


def load(case: str) -> Golden:
    """Reads a golden file and rebuilds what goes with it."""
    with np.load(FOLDER / f"{case}.npz") as file:
        data = {key: file[key] for key in file.files}
    shapes = json.loads((FOLDER / f"{case}_keys.json").read_text())
    meta, skeletons = json.loads(str(data["meta"])), json.loads(str(data["skeleton"]))
    mask, tag = data["mask"][..., 0], meta["tag"]
    batch = mask.shape[0]
    adjacency = np.zeros((batch, SLOTS, SLOTS), np.float32)
    for sample, skeleton in enumerate(skeletons):
        for start, end in skeleton:
            adjacency[sample, [start, end], [end, start]] = 1
    inputs: dict[str, npt.NDArray[np.generic]] = {"query": images(f"{tag}.query", batch), "adjacency": adjacency}
    if "text_dim" in meta:
        embeddings = np.zeros((batch, SLOTS, meta["text_dim"]), np.float32)
        for sample, keypoints in enumerate(meta["keypoints_per_sample"]):
            embeddings[sample, :keypoints] = text_embeddings(tag, sample, keypoints, meta["text_dim"])
        inputs["embeddings"] = embeddings * mask[..., None]
    else:
        shots = data["keypoints"].shape[0]
        inputs["support"] = np.stack([images(f"{tag}.support{shot}", batch) for shot in range(shots)], axis=1)
        inputs["keypoints"] = (data["keypoints"] / 256).transpose(1, 0, 2, 3).astype(np.float32)
        inputs["visible"] = np.repeat(mask[:, None], shots, axis=1)
    return Golden(
        state={name: parameter(name, tuple(shape)) for name, shape in shapes.items()},
        inputs=inputs,
        mask=mask,
        output=data["output"],
        proposals=data["proposals"],
        similarity=data["similarity"],
        features=data["features"],
    )
