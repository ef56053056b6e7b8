"""A CapeLLM checkpoint → an exported repository, proven against PyTorch, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch

import cape
from cape.capellm.configuration import SYSTEM, Readout
from cape.checkpoints import file_digest
from cape.manifest import (
    MANIFEST_NAME,
    MODEL_FILE,
    ComponentManifest,
    LanguageSystemManifest,
    Manifest,
    Modalities,
    ParityEntry,
    SourceManifest,
    TextLimits,
)
from cape.models.capellm.checkpoint import CapeLlmCheckpoint
from export.capellm.graphs import DECODER, VISION, cache_of, decoder_tensors, export_capellm, vision_tensors
from export.capellm.parity import CASES, compare_answers
from export.capellm.weights import TOLERANCE, WeightsCost, round_weights
from export.graph import ExportError, graph_digest
from export.parity import Differences, Runtime
from export.repository import (
    MAX_SHOTS,
    Exported,
    Progress,
    keypoint_buckets,
    now,
    put_repository,
    require_parity,
)
from export.triton.options import TritonOptions
from export.weights import Weights

MAX_BATCH_SIZE = {VISION: 16, DECODER: 64}
"""Rows of a run: crops; and questions, of which each carries the keys and values of its image (20 MB for a Llama 1B
at 300 positions)."""

NAME_TOKENS, DESCRIPTION_TOKENS = 32, 128
"""Longest name or category and longest description of a keypoint: some 20 and 90 words. The longest question sets how
much is computed for all of a request's."""


def export_capellm_repository(
    checkpoint: CapeLlmCheckpoint,
    output: Path,
    *,
    readout: Readout = "greedy",
    weights: Weights = "float32",
    weights_tolerance: float = TOLERANCE,
    force: bool = False,
    add: bool = False,
    triton: TritonOptions = TritonOptions(),  # noqa: B008 (immutable)
    progress: Progress = lambda step, done, total: None,
) -> Exported:
    """Exports a CapeLLM, proves that its answers are PyTorch's token for token, and writes the repository.

    Args:
        checkpoint: as `load_capellm` returns it.
        output, force, add, triton, progress: see `export.repository.export_repository`.
        readout: how digits become a coordinate, for all that the repository answers.
        weights: how the weights of products are stored; float32 is proven first, and others are compared with it.
        weights_tolerance: mean distance from float32's keypoints, as a fraction of the crop, that is let pass.

    Raises:
        ExportError: as `export_repository`; or the model's answers are not text, or with rounded weights too far
            from float32's. Nothing is written then.
    """
    if checkpoint.model.configuration.instruction.answer != "text":
        raise ExportError(f"{checkpoint.source}: instruction.answer is 'token'; only 'text' answers can be exported")

    def write(folder: Path) -> Exported:
        return _write(checkpoint, folder, readout, weights, weights_tolerance, progress)

    return put_repository(write, SYSTEM, output, force=force, add=add, triton=triton)


def _write(
    checkpoint: CapeLlmCheckpoint,
    folder: Path,
    readout: Readout,
    weights: Weights,
    weights_tolerance: float,
    progress: Progress,
) -> Exported:
    steps = 1 + len(CASES)
    progress("tracing", 0, steps)
    checkpoint.model.to(device="cpu", dtype=torch.float32).eval()
    export_capellm(checkpoint.model, folder)
    tokenizer = folder / DECODER / "tokenizer.json"
    checkpoint.tokenizer.tokenizer.save(str(tokenizer))
    progress("comparing answers", 1, steps)
    differences = Differences()
    runtime = Runtime({name: folder / name / MODEL_FILE for name in (VISION, DECODER)})
    for done, _ in enumerate(compare_answers(checkpoint, runtime, readout, differences), start=2):
        progress("comparing answers", done, steps)
    parity = differences.entries()
    require_parity(parity)
    cost = None
    if weights != "float32":
        progress("rounding weights", 0, 1)
        cost = round_weights(
            checkpoint,
            folder,
            weights,
            readout,
            weights_tolerance,
            lambda done, total: progress("comparing with float32", done, total),
        )
        parity = cost.parity
    manifest = _manifest(checkpoint, folder, readout, parity, cost)
    (folder / MANIFEST_NAME).write_text(manifest.with_scheduling().model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Exported(manifest, SYSTEM, 0, cost)


def _manifest(
    checkpoint: CapeLlmCheckpoint,
    folder: Path,
    readout: Readout,
    parity: tuple[ParityEntry, ...],
    cost: WeightsCost | None,
) -> Manifest:
    model, configuration = checkpoint.model, checkpoint.model.configuration
    seeing = sum(p.numel() for p in (*model.vision.parameters(), *model.projection.parameters()))
    everything = sum(p.numel() for p in model.parameters())
    parameters = {VISION: seeing, DECODER: everything - seeing}
    tensors = {VISION: vision_tensors(model), DECODER: decoder_tensors(model)}
    components = {}
    for name, (inputs, outputs) in tensors.items():
        digest, size = graph_digest(folder / name / MODEL_FILE)
        components[name] = ComponentManifest(
            inputs=inputs,
            outputs=outputs,
            precision=cost.precisions.get(name, "float32") if cost else "float32",
            max_batch_size=MAX_BATCH_SIZE[name],
            sha256=digest,
            bytes=size,
            parameters=parameters[name],
        )
    return Manifest(
        capeserve_version=cape.__version__,
        created=now(),
        image_size=configuration.vision.image_size,
        box_padding=configuration.box_padding,
        max_keypoints=configuration.max_keypoints,
        keypoint_buckets=keypoint_buckets(configuration.max_keypoints),
        max_shots=MAX_SHOTS,
        components=components,
        systems={
            SYSTEM: LanguageSystemManifest(
                components={VISION: VISION, DECODER: DECODER},
                backbone=configuration.vision.name,
                # A support may have images for other models; this one does not look at them.
                modalities=Modalities(image="unused", text="required"),
                parameters=everything,
                parity=parity,
                language=configuration.language.kind,
                width=configuration.language.width,
                image_tokens=configuration.vision.tokens,
                cache=cache_of(model),
                tokenizer=f"{DECODER}/tokenizer.json",
                tokenizer_sha256=file_digest(folder / DECODER / "tokenizer.json"),
                special_tokens=configuration.special_tokens,
                instruction=configuration.instruction,
                readout=readout,
                limits=TextLimits(
                    category=NAME_TOKENS,
                    name=NAME_TOKENS,
                    description=DESCRIPTION_TOKENS,
                    sequence=model.language.config.max_position_embeddings,
                ),
                rounded=cost.answers if cost else None,
            )
        },
        source=SourceManifest(
            checkpoint=checkpoint.source.name, sha256=checkpoint.sha256, trained=configuration.trained
        ),
    )
