"""CapeLLM's keypoints decoded as one batch over a shared prefix, compared with one prompt per keypoint.

Both get the same image tokens, so the image encoder is not measured (the public code runs it for every prompt). The two
are interleaved, so that a busy machine affects both alike.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.machine import describe_machine
from cape.capellm.configuration import CapeLlmConfiguration
from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.data.synthetic import SyntheticDataset
from cape.models.capellm.checkpoint import untrained_capellm
from cape.models.capellm.decoding import DecodingCost
from cape.models.capellm.plain import NEW_TOKENS, locate_plainly
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import KeypointDefinition, SupportDefinition
from cape.training.capellm.beginnings import own_tokenizer

SPOKEN = 10
"""Tokens of a well-formed answer with one token a number, its end included: what a trained model speaks."""

STAND_IN: dict[str, Any] = {
    "vision": {
        "architecture": {
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "patch_size": 14,
            "image_size": 518,
        }
    },
    "language": {
        "architecture": {
            "vocab_size": 3072,
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
        }
    },
}
"""DINOv2 ViT-S/14 at 224 pixels, hence the paper's 256 image tokens, and a Llama that a CPU runs: random weights."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both methods at one number of keypoints.

    Attributes:
        keypoints: K.
        plain, shared: what a request costs.
        plain_seconds, shared_seconds: of each run, in turns.
        equal: answers that are the same both ways; None for random weights, which do not speak coordinates.
    """

    keypoints: int
    plain: DecodingCost
    shared: DecodingCost
    plain_seconds: tuple[float, ...]
    shared_seconds: tuple[float, ...]
    equal: int | None

    @property
    def speedup(self) -> float:
        """Median over runs of plain ÷ shared time."""
        return float(np.median(np.array(self.plain_seconds) / np.array(self.shared_seconds)))


def stand_in() -> CapeLlmPredictor:
    """A model of random weights, its prompts as long as the published ones."""
    configuration = CapeLlmConfiguration.model_validate(STAND_IN)
    tokenizer = own_tokenizer(configuration, SyntheticDataset("train", objects_per_category=1).categories)
    return CapeLlmPredictor(untrained_capellm(configuration), CapeLlmTokenizer(tokenizer, configuration.special_tokens))


def some_support(keypoints: int) -> SupportDefinition:
    """A support of so many different keypoints, out of the synthetic categories, category by category."""
    found: dict[str, KeypointDefinition] = {}
    for category in SyntheticDataset("train", objects_per_category=1).categories:
        found |= {keypoint.name: keypoint for keypoint in category.keypoints}
    return SupportDefinition("thing", tuple(found.values())[:keypoints])


def compare(
    predictor: CapeLlmPredictor,
    counts: Sequence[int],
    runs: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Comparison]:
    """Measures both ways, in turns, after a run of each that is not counted.

    Args:
        predictor: with text answers.
        counts: of keypoints.
        runs: of each way and count.
        progress: told what runs.
    """
    model, trained = predictor.model, predictor.model.configuration.trained
    size = model.configuration.vision.image_size
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)
    tokens = predictor.encode([image])
    spoken = NEW_TOKENS if trained else SPOKEN
    warm_up = predictor.prompts(some_support(2))
    predictor.locate(tokens, warm_up)
    locate_plainly(model, predictor.tokenizer, tokens, *warm_up, new_tokens=spoken)
    found = []
    for count in counts:
        prompts = predictor.prompts(some_support(count))
        seconds: tuple[list[float], list[float]] = ([], [])
        for run in range(runs):
            progress(f"{count} keypoints, run {run + 1} of {runs}")
            began = time.perf_counter()
            plain = locate_plainly(model, predictor.tokenizer, tokens, *prompts, new_tokens=spoken)
            between = time.perf_counter()
            shared = predictor.locate(tokens, prompts)
            seconds[0].append(between - began)
            seconds[1].append(time.perf_counter() - between)
        same = sum(one == other for one, other in zip(plain.answers, shared.answers, strict=True))
        equal = same if trained else None
        found.append(Comparison(count, plain.cost, shared.cost, tuple(seconds[0]), tuple(seconds[1]), equal))
    return found


HEADER = ("keypoints", "way", "prompt tokens", "answer tokens", "runs of the model", "seconds, median", "× faster")


def rows(found: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Two rows a number of keypoints."""
    table = []
    for one in found:
        for way, cost, seconds, ratio in (
            ("a prompt a keypoint", one.plain, one.plain_seconds, ""),
            ("shared prefix, one batch", one.shared, one.shared_seconds, f"{one.speedup:.1f}"),
        ):
            numbers = (cost.prompt_tokens, cost.answer_tokens, cost.steps)
            table.append((str(one.keypoints), way, *map(str, numbers), f"{np.median(seconds):.3f}", ratio))
    return table


def write_results(folder: Path, name: str, found: Sequence[Comparison], about: str, command: str) -> list[Path]:
    """Writes JSON and Markdown; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "model": about,
        "comparisons": [asdict(one) | {"speedup": one.speedup} for one in found],
    }
    lines = [
        "# CapeLLM: what a request costs",
        "",
        f"{about}. Language model alone, float32, {torch.get_num_threads()} thread(s); both ways take turns.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "--|" * len(HEADER),
        *("| " + " | ".join(row) + " |" for row in rows(found)),
        "",
        *(f"{one.equal} of {one.keypoints} answers are the same." for one in found if one.equal is not None),
        f"`{command}`, {document['machine']}, {document['date'][:10]}.",
        "",
    ]
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    paths[0].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    paths[1].write_text("\n".join(lines), encoding="utf-8")
    return paths
