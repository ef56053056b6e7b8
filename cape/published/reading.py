"""Reads published GraphCape, CapeX and CapeFormer checkpoints into our models.

The files are mmcv-style: a dictionary with `state_dict`, whose keys start with `backbone.` (Microsoft's Swin V2
layout), `keypoint_head.` and, in CapeX, `text_backbone.`. Keys and shapes tell what a file holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from cape.checkpoints import Checkpoint, file_digest, load_state
from cape.configuration import SystemName
from cape.models.system import System
from cape.pretrained.packages import PretrainedError
from cape.pretrained.text_encoders import TEXT_ENCODER_FOLDER, bert_tokenizer, check_tokenizer, read_text_encoder
from cape.pretrained.text_layouts import find_text_encoder
from cape.pretrained.weight_files import WeightsError, check_finite, read_weights
from cape.published.key_names import TEXT_PREFIX, PublishedCheckpointError, convert, under
from cape.published.recognition import READ, describe, other_backbone, recognise

State = dict[str, Tensor]

PARTS = ("backbone.", "keypoint_head.")
"""What every published checkpoint has."""

UNUSED = ("data_preprocessor.",)
"""Parameters beside the model that mean nothing here: mmengine stores the image normalisation in the file."""


def read_published(path: Path) -> State:
    """Reads the parameters of a published checkpoint.

    A prefix that backbone and keypoint head share (`module.`, `model.`) is removed.

    Raises:
        PublishedCheckpointError: the file cannot be read as tensors, holds no backbone and keypoint head, or numbers
            that are not finite.
    """
    try:
        state = read_weights(path)
        state = _without_common_prefix(state)
        _check_parts(state)
        check_finite(state, path)
    except PublishedCheckpointError as error:
        raise PublishedCheckpointError(f"{path}: {error}") from None
    except WeightsError as error:
        raise PublishedCheckpointError(str(error)) from None
    return {key: value for key, value in state.items() if not key.startswith(UNUSED)}


def _without_common_prefix(state: Mapping[str, Tensor]) -> State:
    """The keys from backbone and keypoint head on: without what stands before both."""
    before: dict[str, set[str]] = {part: set() for part in PARTS}
    for key in state:
        if match := re.match(r"((?:[^.]+\.)*?)(backbone\.|keypoint_head\.)", key):
            before[match[2]].add(match[1])
    prefixes = sorted(before[PARTS[0]] & before[PARTS[1]])
    if len(prefixes) > 1:
        raise PublishedCheckpointError(f"several models, under {', '.join(map(repr, prefixes))}: save one of them")
    return {key.removeprefix(prefixes[0]) if prefixes else key: value for key, value in state.items()}


def _check_parts(state: Mapping[str, Tensor]) -> None:
    if backbone := other_backbone(state):
        raise PublishedCheckpointError(f"{backbone} is not supported; read are {READ}")
    found = ", ".join(sorted({key.split(".")[0] for key in state})[:8])
    for part in PARTS:
        if not any(key.startswith(part) for key in state):
            raise PublishedCheckpointError(f"no key starts with {part!r} (found: {found})")
    strange = [key for key in state if not key.startswith((*PARTS, TEXT_PREFIX, *UNUSED))]
    if strange:
        raise PublishedCheckpointError(
            f"{len(strange)} parameters belong to no known part of a published model, {strange[0]!r} for one"
        )


def open_published(
    path: Path,
    *,
    system: SystemName | None = None,
    text_encoder: Path | None = None,
    tokenizer: Path | None = None,
    shot_visibility: Literal["all", "any"] = "all",
) -> tuple[Checkpoint, str]:
    """Reads a published checkpoint as one of ours.

    Args:
        path: the .pth file.
        system: which system it is; None: recognised.
        text_encoder: Hugging Face folder of the text encoder, where the file brings none (or another is wanted).
        tokenizer: tokenizers JSON file; None: that of `text_encoder`, or BERT's vocabulary for gte where a
            package that holds it is installed.
        shot_visibility: whether a keypoint counts when it is visible in all shots, as published, or in any.

    Returns:
        The checkpoint, and one line that says what it was recognised as.

    Raises:
        WeightsError: naming the file, its keys or what is missing.
    """
    state = read_published(path)
    try:
        configuration = recognise(state, system)
        converted = convert(state)
    except PublishedCheckpointError as error:
        raise PublishedCheckpointError(f"{path}: {error}") from None
    has_text_encoder = find_text_encoder(under(state, TEXT_PREFIX)) is not None
    text = configuration.text
    if text is not None:
        if text_encoder is not None:
            encoder = read_text_encoder(text_encoder)
            if encoder.configuration.dimension != text.dimension:
                raise PretrainedError(
                    f"{text_encoder}: texts of width {encoder.configuration.dimension}, "
                    f"but the checkpoint projects {text.dimension}"
                )
            tokenizer = tokenizer or encoder.tokenizer
            configuration = configuration.model_copy(update={"text": encoder.configuration})
            converted = {k: v for k, v in converted.items() if not k.startswith("text_encoder.")}
            converted |= {f"text_encoder.tower.{key}": value for key, value in encoder.state.items()}
            has_text_encoder = False
        elif not has_text_encoder:
            raise PretrainedError(
                f"{path} brings no text encoder: give the folder of its {text.name} "
                f"(--text-encoder), which holds {TEXT_ENCODER_FOLDER}"
            )
        tokenizer = check_tokenizer(tokenizer or bert_tokenizer(text))
    configuration = configuration.model_copy(update={"shot_visibility": shot_visibility})
    model = System(configuration)
    load_state(model, converted, path)
    return Checkpoint(model.eval(), tokenizer, path, file_digest(path)), describe(configuration, has_text_encoder)
