"""A client that knows Triton's protocols and nothing of capeserve, and what the server says of itself."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cape.manifest import Manifest
from export.triton.local.server import TritonProcess
from service.engines.base import Engine

TYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}


def infer(
    protocol: Any, url: str, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    """One request; `protocol` is tritonclient.grpc or tritonclient.http."""
    with protocol.InferenceServerClient(url) as client:
        tensors = []
        for name, array in inputs.items():
            tensors.append(protocol.InferInput(name, list(array.shape), TYPES[array.dtype.name]))
            tensors[-1].set_data_from_numpy(array)
        wanted = [protocol.InferRequestedOutput(name) for name in outputs]
        answer = client.infer(model, tensors, outputs=wanted)
        return {name: answer.as_numpy(name) for name in outputs}


def counter(server: TritonProcess, name: str, model: str) -> float:
    """A counter of Triton's own metrics, as Prometheus reads it."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(rf'^{name}{{model="{model}",version="1"}} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


def one_shot_request(seed: int, keypoints: int = 5) -> dict[str, np.ndarray]:
    """What the ensemble `<system>` takes."""
    generator = np.random.default_rng(seed)
    adjacency = np.triu(generator.random((1, keypoints, keypoints)) > 0.6, 1).astype(np.float32)
    return {
        "image": generator.integers(0, 256, (1, 256, 256, 3), dtype=np.uint8),
        "support_image": generator.integers(0, 256, (1, 256, 256, 3), dtype=np.uint8),
        "support_keypoints": generator.random((1, keypoints, 2), dtype=np.float32),
        "support_visible": np.ones((1, keypoints), np.float32),
        "input_ids": generator.integers(1, 1000, (1, keypoints, 8)),
        "attention_mask": np.ones((1, keypoints, 8), np.int64),
        "adjacency": adjacency + adjacency.transpose(0, 2, 1),
    }


def embedded_answer(
    engine: Engine, manifest: Manifest, system: str, request: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the components say to `one_shot_request`, run one after the other; every tensor on the way, too."""
    names = manifest.systems[system].components
    query, shot = (
        engine.run(names["image_backbone"], {"image": request[name]}, ["features"])["features"]
        for name in ("image", "support_image")
    )
    texts = {name: request[name] for name in ("input_ids", "attention_mask")}
    embeddings = engine.run(names["text_encoder"], texts, ["embeddings"])["embeddings"]
    support = {
        "features": shot[:, np.newaxis],
        "keypoints": request["support_keypoints"][:, np.newaxis],
        "visible": request["support_visible"][:, np.newaxis],
        "embeddings": embeddings,
    }
    tokens = engine.run(names["support_fusion"], support, ["support_tokens", "mask"])
    decoder = {"features": query, "adjacency": request["adjacency"], **tokens}
    pose = engine.run(names["pose_decoder"], decoder, ["keypoints", "scores", "similarity", "proposals"])
    return {**tokens, **pose}
