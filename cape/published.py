"""Published GraphCape, CapeX and CapeFormer checkpoints, read into our models.

The files are mmcv-style: a dictionary with `state_dict`, whose keys start with `backbone.` (Microsoft's Swin V2
layout), `keypoint_head.` and, in CapeX, `text_backbone.`. What a file holds is recognised from its keys and
shapes; nothing is unpickled but tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cape.checkpoints import Checkpoint, file_digest, load_state
from cape.configuration import (
    BackboneConfiguration,
    GraphPlacement,
    HeadConfiguration,
    SystemConfiguration,
    SystemName,
    TextConfiguration,
)
from cape.models.system import System
from cape.published_layouts import TEXT_PREFIX, PublishedCheckpointError, convert, under
from cape.text_layouts import architecture, architecture_from_config, find_tower
from cape.towers import FOLDER_OF_A_TEXT_TOWER, TowerError, bert_tokenizer, read_text_tower

State = dict[str, Tensor]

HARMLESS: list[Any] = [np.float64(0).__reduce__()[0], np.dtype, *(type(np.dtype(code)) for code in "fdiql?")]
"""NumPy scalars: mmcv keeps the best validation score as one, beside the weights. Nothing else is unpickled."""


def read_published(path: Path) -> State:
    """Reads the `state_dict` of a published checkpoint.

    Raises:
        PublishedCheckpointError: the file cannot be read as tensors, or holds no backbone and keypoint head.
    """
    try:
        with torch.serialization.safe_globals(HARMLESS):
            document: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PublishedCheckpointError(f"{path}: no such file") from None
    except Exception as error:  # pickle, zip and torch errors alike: none of them says what the file should be
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PublishedCheckpointError(
            f"{path}: not a file of tensors that can be read without running code from it ({reason})"
        ) from None
    state = document.get("state_dict", document) if isinstance(document, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PublishedCheckpointError(f"{path}: no 'state_dict' of tensors in it")
    for prefix in ("backbone.", "keypoint_head."):
        if not any(key.startswith(prefix) for key in state):
            found = ", ".join(sorted({key.split(".")[0] for key in state})[:8])
            raise PublishedCheckpointError(f"{path}: no key starts with '{prefix}' (found: {found})")
    return dict(state)


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    if key not in state:
        raise PublishedCheckpointError(f"missing key {key!r}")
    return tuple(state[key].shape)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that `pattern`'s group matches among the keys."""
    found = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    if not found:
        raise PublishedCheckpointError(f"no key matches {pattern!r}")
    return max(found) + 1


def recognise(state: Mapping[str, Tensor], system: SystemName | None = None) -> SystemConfiguration:
    """Derives the configuration from keys and shapes.

    Args:
        state: as `read_published` returns it.
        system: which system it is; None: CapeX if it projects texts, GraphCape if its decoder has a graph,
            CapeFormer otherwise.

    Raises:
        PublishedCheckpointError: a key that every such checkpoint has is missing, or the file is another system.
    """
    stages = _count(state, r"backbone\.layers\.(\d+)\.")
    depths = tuple(_count(state, rf"backbone\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages))
    heads = tuple(_shape(state, f"backbone.layers.{s}.blocks.0.attn.logit_scale")[0] for s in range(stages))
    table = state.get("backbone.layers.0.blocks.0.attn.relative_coords_table")
    backbone = BackboneConfiguration(
        embed_dim=_shape(state, "backbone.patch_embed.proj.weight")[0],
        depths=depths,
        heads=heads,
        window=(table.shape[1] + 1) // 2 if table is not None else 16,
    )
    decoder = "keypoint_head.transformer.decoder.layers"
    graph_first, graph_second = (
        f"{decoder}.0.ffn1.conv.weight" in state,
        f"{decoder}.0.ffn2.conv.weight" in state,
    )
    placements: dict[tuple[bool, bool], GraphPlacement] = {
        (True, True): "both",
        (True, False): "pre",
        (False, True): "post",
        (False, False): "none",
    }
    head = HeadConfiguration(
        width=_shape(state, "keypoint_head.input_proj.weight")[0],
        feedforward=_shape(state, "keypoint_head.transformer.encoder.layers.0.linear1.weight")[0],
        gate_width=_shape(state, "keypoint_head.transformer.proposal_generator.dynamic_proj.0.weight")[0],
        encoder_layers=_count(state, r"keypoint_head\.transformer\.encoder\.layers\.(\d+)\."),
        decoder_layers=_count(state, r"keypoint_head\.transformer\.decoder\.layers\.(\d+)\."),
        graph=placements[graph_first, graph_second],
    )
    reads_text = "keypoint_head.text_proj.weight" in state
    if not reads_text:
        _shape(state, "keypoint_head.query_proj.weight")
    found: SystemName = "capex" if reads_text else "capeformer" if head.graph == "none" else "graphcape"
    if system is not None and system != found:
        # A GraphCape without a graph is a CapeFormer by another name: both readings give the same numbers.
        if {system, found} != {"graphcape", "capeformer"} or system == "capeformer":
            raise PublishedCheckpointError(f"this is a {found} checkpoint, not {system}")
        found = system
    text = _recognise_text(state) if reads_text else None
    return SystemConfiguration(
        system=found, backbone=backbone, text=text, head=head, shot_visibility="all", trained=True
    )


def _recognise_text(state: Mapping[str, Tensor]) -> TextConfiguration:
    """The text tower in the file; where it brings none, gte-base or a CLIP, by the width that is projected."""
    if found := find_tower(under(state, TEXT_PREFIX)):
        kind, tower = found
        pooling: Literal["cls", "projection"] = "projection" if kind == "clip" else "cls"
        name = "clip" if kind == "clip" else "gte-base-en-v1.5"
        return TextConfiguration(
            kind="clip" if kind == "clip" else "gte", name=name, pooling=pooling, architecture=architecture(kind, tower)
        )
    width = _shape(state, "keypoint_head.text_proj.weight")[1]
    if width == TextConfiguration().dimension:
        return TextConfiguration()
    return TextConfiguration(
        kind="clip",
        name="clip",
        pooling="projection",
        architecture=architecture_from_config("clip", {}) | {"projection_dim": width},
    )


def _describe(configuration: SystemConfiguration, brings_tower: bool) -> str:
    text, head = configuration.text, configuration.head
    tower = "no text"
    if text is not None:
        tower = f"{text.name} text of width {text.dimension}{', in the file' if brings_tower else ''}"
    return (
        f"{configuration.system}: {configuration.backbone.name}, {tower}, graph {head.graph!r}, "
        f"width {head.width}, {head.encoder_layers} encoder and {head.decoder_layers} decoder layers"
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
        text_encoder: Hugging Face folder of the text tower, where the file brings none (or another is wanted).
        tokenizer: tokenizers JSON file; None: that of `text_encoder`, or BERT's vocabulary for gte where a
            package that holds it is installed.
        shot_visibility: whether a keypoint counts when it is visible in all shots, as published, or in any.

    Returns:
        The checkpoint, and one line that says what it was recognised as.

    Raises:
        PublishedCheckpointError, CheckpointError, TowerError: naming the file, its keys or what is missing.
    """
    state = read_published(path)
    try:
        configuration = recognise(state, system)
        converted = convert(state)
    except PublishedCheckpointError as error:
        raise PublishedCheckpointError(f"{path}: {error}") from None
    brings_tower = find_tower(under(state, TEXT_PREFIX)) is not None
    text = configuration.text
    if text is not None:
        if text_encoder is not None:
            tower = read_text_tower(text_encoder)
            if tower.configuration.dimension != text.dimension:
                raise TowerError(
                    f"{text_encoder}: texts of width {tower.configuration.dimension}, "
                    f"but the checkpoint projects {text.dimension}"
                )
            tokenizer = tokenizer or tower.tokenizer
            configuration = configuration.model_copy(update={"text": tower.configuration})
            converted |= {f"text_encoder.tower.{key}": value for key, value in tower.state.items()}
        elif not brings_tower:
            raise TowerError(
                f"{path} brings no text encoder: give the folder of its {text.name} "
                f"(--text-encoder), which holds {FOLDER_OF_A_TEXT_TOWER}"
            )
        tokenizer = tokenizer or bert_tokenizer(text)
    configuration = configuration.model_copy(update={"shot_visibility": shot_visibility})
    model = System(configuration)
    load_state(model, converted, path)
    return Checkpoint(model.eval(), tokenizer, path, file_digest(path)), _describe(configuration, brings_tower)
