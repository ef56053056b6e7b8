"""CapeLLM for `capeserve bench systems`: counted at the published size, and measured in every form as far as that runs.

The published model cannot be built on a small machine, but it can be counted: on torch's meta device, with the very
inputs that a request's runs have. What must be run, exported and served is the stand-in of
`benchmarks.capellm.measurement`.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.capellm.measurement import some_support, stand_in
from benchmarks.cost.measurement import count
from benchmarks.harness.machine import describe_machine
from cape.annotations import read_support
from cape.capellm.configuration import CapeLlmConfiguration
from cape.capellm.grammar import AnswerGrammar
from cape.capellm.prompts import prompts_of
from cape.capellm.sequences import AnswerSequences, Past, prefix_inputs
from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.client import Client
from cape.geometry import Crop
from cape.images import read_image
from cape.models.capellm.checkpoint import CapeLlmCheckpoint
from cape.models.capellm.model import CapeLlm
from export.capellm.graphs import DecoderGraph, VisionGraph, cache_of
from export.capellm.parity import CASES
from export.capellm.repository import export_capellm_repository

SYSTEM = "capellm"
KEYPOINTS = 17

Serve = Callable[[Path], AbstractContextManager[str]]
"""Serves a repository in its own process; yields the target."""


@dataclass(frozen=True, slots=True)
class QueryCost:
    """Cost of a query of 17 keypoints; nothing of a support is shared between queries.

    Attributes:
        parameters: of the whole model.
        vision, prefix, questions: multiply-adds of the image tower, of begin token and image in the language model,
            and of all questions and answers.
        runs: of the language model.
    """

    parameters: int
    vision: int
    prefix: int
    questions: int
    runs: int


@dataclass(frozen=True, slots=True)
class CapeLlmRow:
    """What was measured.

    Attributes:
        published, stand_in: cost at both sizes.
        answers: answers of the exported stand-in that were compared with PyTorch's; an export is refused unless all
            are equal token for token.
        scores: largest difference of their scores.
        served: largest difference of a keypoint between the running service and PyTorch, in pixels of the image.
    """

    published: QueryCost
    stand_in: QueryCost
    answers: int
    scores: float
    served: float


def measure_capellm(support: Path, photograph: Path, serve: Serve) -> CapeLlmRow:
    """Counts, exports, serves and compares; arguments as for `benchmarks.systems.measurement.measure_system`."""
    predictor = stand_in()
    model, tokenizer, configuration = predictor.model, predictor.tokenizer, predictor.model.configuration
    definition = read_support(support)
    image = read_image(photograph)
    height, width = image.shape[:2]
    crop = Crop.around(
        0, 0, width, height, size=configuration.vision.image_size, padding=configuration.box_padding
    )  # the box of a request without one
    located = predictor.locate(predictor.encode([crop.extract(image)]), predictor.prompts(definition))
    expected = crop.to_image(located.keypoints.numpy())
    checkpoint = CapeLlmCheckpoint(model, tokenizer, Path("untrained-capellm"), "0" * 64)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_capellm_repository(checkpoint, Path(folder) / "repository")
        with serve(Path(folder) / "repository") as target, Client(target) as client:
            answer = client.estimate(photograph, definition)
    parity = {entry.output: entry for entry in exported.manifest.language_systems[SYSTEM].parity}
    return CapeLlmRow(
        published=query_cost(CapeLlmConfiguration(), tokenizer),
        stand_in=query_cost(configuration, tokenizer),
        answers=sum(images * keypoints for images, keypoints, _ in CASES),
        scores=parity["chain.scores"].largest,
        served=float(np.abs(answer.instances[0].keypoints - expected).max()),
    )


def query_cost(configuration: CapeLlmConfiguration, tokenizer: CapeLlmTokenizer) -> QueryCost:
    """Counts a query of 17 keypoints, with names and descriptions.

    Args:
        configuration: of the model, which is built without weights.
        tokenizer: makes the prompts; the published model's own, Llama's, has other lengths.
    """
    with torch.device("meta"):
        model = CapeLlm(configuration)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = configuration.vision.image_size
    vision = _multiply_adds(VisionGraph(model), (torch.empty(1, size, size, 3, dtype=torch.uint8, device="meta"),))
    decoder = DecoderGraph(model)
    prefix, *questions = (_multiply_adds(decoder, inputs) for inputs in _runs(model, tokenizer))
    return QueryCost(parameters, vision, prefix, sum(questions), 1 + len(questions))


def _multiply_adds(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> int:
    return sum(count(module, inputs)[""].values()) // 2


def _runs(model: CapeLlm, tokenizer: CapeLlmTokenizer) -> Iterator[tuple[Tensor, ...]]:
    """Inputs of the decoder, run by run, as in service; only shapes, since nothing is computed."""
    configuration, cache = model.configuration, cache_of(model)
    support = some_support(KEYPOINTS)
    prompts = prompts_of(tokenizer, configuration.instruction, support.category, support.keypoints)
    width, positions = configuration.language.width, configuration.vision.tokens + len(prompts.opening)
    image_tokens = np.broadcast_to(np.float32(0), (configuration.vision.tokens, width))
    rows = [prefix_inputs(image_tokens, prompts.opening, Past.nothing(cache.layers, cache.heads, cache.depth))]
    yield _shapes(rows)
    # One number for all keys and values: eight billion parameters have gigabytes of them.
    past = np.broadcast_to(np.float32(0), (cache.layers, cache.heads, positions, cache.depth))
    sequences = AnswerSequences(
        prompts.questions, [Past(past, past)] * KEYPOINTS, AnswerGrammar(tokenizer), width=width, multiple=8
    )
    while not sequences.complete:
        rows = sequences.inputs()
        yield _shapes(rows)
        past = np.broadcast_to(np.float32(0), (cache.layers, cache.heads, len(rows[0]["mask"]), cache.depth))
        logits = np.zeros(tokenizer.tokenizer.get_vocab_size(), np.float32)
        sequences.take([{"logits": logits, "keys": past, "values": past}] * len(rows))


def _shapes(rows: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(
        torch.empty(
            (len(rows), *array.shape),
            dtype=torch.long if array.dtype.kind == "i" else torch.float32,
            device="meta",
        )
        for array in rows[0].values()
    )


def capellm_section(row: CapeLlmRow) -> str:
    """The measurements as a section of a Markdown document."""
    lines = [
        f"## {SYSTEM}",
        "",
        "A language model has other costs: no support is computed ahead, and each keypoint is a question.",
        "",
        "| size | parameters, M | multiply-adds of a query of 17 keypoints, G: image tower "
        "| image in the language model | questions and answers | runs of the language model |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, cost in (
        ("published: DINOv2 ViT-L/14, Llama 3.1 8B", row.published),
        ("stand-in: DINOv2 ViT-S/14, a Llama of eight layers", row.stand_in),
    ):
        parts = " | ".join(f"{part / 1e9:.1f}" for part in (cost.vision, cost.prefix, cost.questions))
        lines.append(f"| {name} | {cost.parameters / 1e6:.1f} | {parts} | {cost.runs} |")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return "\n".join(
        [
            *lines,
            "",
            f"ONNX − PyTorch: {row.answers} of {row.answers} answers of the exported stand-in are PyTorch's token for "
            f"token (an export with another answer is refused), their scores differ by {row.scores:.1e} at most. "
            f"Service − PyTorch: {row.served:.1e} pixels at most. There are no published weights to compare "
            "with. The published size is counted without weights, and with the stand-in's vocabulary in place of "
            "Llama's; a prompt a keypoint, as in the public code, would pay for the image 17 times.",
            "",
            f"{describe_machine()}, {today}.",
            "",
        ]
    )
