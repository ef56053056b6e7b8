"""An engine of a few lines of numpy whose answers show which inputs they were made from."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from cape.manifest import Manifest

SIZE, CHANNELS, CELLS, WIDTH, DIMENSION, MAPS = 4, 2, 2, 3, 5, 6

WORDS = ("[PAD]", "[UNK]", "left", "right", "front", "back", "eye", "leg")


def write_tokenizer(folder: Path) -> Path:
    """Writes a tokenizer that splits at spaces, and that pads and cuts as no encoder wants it to."""
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(max_length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def tiny_manifest(image: str = "required", text: str = "required", max_batch_size: int = 4) -> Manifest:
    """A repository of one system, 'flf'."""

    def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": shape}

    features = ("features", "float32", "B", CHANNELS, CELLS, CELLS)
    tokens = (
        tensor("support_tokens", "float32", "B", 1, "K", WIDTH),
        tensor("mask", "float32", "B", 1, "K"),
    )
    components = {
        "image_backbone": ([tensor("image", "uint8", "B", SIZE, SIZE, 3)], [tensor(*features)]),
        "text_encoder": (
            [tensor("input_ids", "int64", "B", "K", "T"), tensor("attention_mask", "int64", "B", "K", "T")],
            [tensor("embeddings", "float32", "B", "K", DIMENSION)],
        ),
        "support_fusion": (
            [
                tensor("features", "float32", "B", "S", CHANNELS, CELLS, CELLS),
                tensor("keypoints", "float32", "B", "S", "K", 2),
                tensor("visible", "float32", "B", "S", "K"),
                tensor("embeddings", "float32", "B", "K", DIMENSION),
            ],
            tokens,
        ),
        "pose_decoder": (
            [tensor(*features), *tokens, tensor("adjacency", "float32", "B", "K", "K")],
            [
                tensor("keypoints", "float32", "B", "K", 2),
                tensor("scores", "float32", "B", "K"),
                tensor("similarity", "float32", "B", "K", MAPS, MAPS),
                tensor("proposals", "float32", "B", "K", 2),
            ],
        ),
    }
    return Manifest.model_validate(
        {
            "capeserve_version": "0",
            "created": "2026-01-01T00:00:00Z",
            "image_size": SIZE,
            "box_padding": 1.25,
            "max_keypoints": 8,
            "keypoint_buckets": (4, 8),
            "max_shots": 3,
            "components": {
                name: {
                    "inputs": inputs,
                    "outputs": outputs,
                    "max_batch_size": max_batch_size,
                    "sha256": f"{index}" * 64,
                    "bytes": 1,
                    "parameters": 0,
                }
                for index, (name, (inputs, outputs)) in enumerate(components.items())
            },
            "systems": {
                "flf": {
                    "components": {name: name for name in components},
                    "backbone": "none",
                    "backbone_channels": CHANNELS,
                    "feature_size": CELLS,
                    "similarity_size": MAPS,
                    "model_width": WIDTH,
                    "pathways": 1,
                    "modalities": {"image": image, "text": text},
                    "text_encoder": {
                        "kind": "bert",
                        "name": "none",
                        "dimension": DIMENSION,
                        "max_tokens": 20,
                        "tokenizer": "tokenizer.json",
                        "pad_token_id": 0,
                    },
                    "parameters": 1,
                }
            },
            "source": {"checkpoint": "none", "sha256": "0" * 64, "trained": False},
        }
    )


class NumpyEngine:
    """Answers from its inputs, and remembers what it was asked.

    Attributes:
        runs: (component, inputs) of every run that has begun.
        error: raised by the next run that ends.
    """

    description = "numpy"
    concurrency = 1
    useful_batch = None

    def __init__(self) -> None:
        self.runs: list[tuple[str, dict[str, np.ndarray]]] = []
        self.error: Exception | None = None
        self._gate = threading.Event()
        self._gate.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Runs that begin meanwhile end only afterwards."""
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def batches(self, component: str | None = None) -> list[int]:
        """Rows of each run so far, of one component or all."""
        return [len(next(iter(inputs.values()))) for name, inputs in self.runs if component in (None, name)]

    def run(self, component: str, inputs: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        self.runs.append((component, dict(inputs)))
        assert self._gate.wait(timeout=30)
        error, self.error = self.error, None
        if error is not None:
            raise error
        results = getattr(self, f"_{component}")(**inputs)
        return {name: results[name] for name in outputs}

    def close(self) -> None:
        """Holds nothing."""

    def _image_backbone(self, image: np.ndarray) -> dict[str, np.ndarray]:
        brightness = image.mean(axis=(1, 2, 3), dtype=np.float32) / 255
        return {"features": np.tile(brightness[:, None, None, None], (1, CHANNELS, CELLS, CELLS))}

    def _text_encoder(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        total = (input_ids * attention_mask).sum(-1)
        vectors = np.stack([np.cos(total), np.sin(total), *[0 * total] * (DIMENSION - 2)], axis=-1)
        return {"embeddings": vectors.astype(np.float32)}

    def _support_fusion(
        self, features: np.ndarray, keypoints: np.ndarray, visible: np.ndarray, embeddings: np.ndarray
    ) -> dict[str, np.ndarray]:
        brightness = features.mean(axis=(2, 3, 4))
        seen = (visible * brightness[..., None]).sum(1)
        where = (keypoints[..., 0] * visible).sum(1)
        known = np.maximum(visible.max(1), np.abs(embeddings).max(-1) > 0).astype(np.float32)
        tokens = np.stack([seen, where, embeddings[..., 0]], axis=-1)
        return {"support_tokens": tokens[:, None], "mask": known[:, None]}

    def _pose_decoder(
        self, features: np.ndarray, support_tokens: np.ndarray, mask: np.ndarray, adjacency: np.ndarray
    ) -> dict[str, np.ndarray]:
        brightness = features.mean(axis=(1, 2, 3))
        keypoints = np.stack([brightness[:, None] + 0 * mask[:, 0], support_tokens[:, 0, :, 0]], axis=-1)
        return {
            "keypoints": keypoints,
            "scores": mask[:, 0],
            "similarity": np.tile(support_tokens[:, 0, :, :1, None], (1, 1, MAPS, MAPS)),
            "proposals": 1 - keypoints,
        }


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that happens in another task or thread."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (no event tells of it)
            await asyncio.sleep(0.001)
