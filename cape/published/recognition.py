"""Which published system a state dict belongs to, and its configuration, read off its keys and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from cape.configuration import (
    BackboneConfiguration,
    GraphPlacement,
    HeadConfiguration,
    SystemConfiguration,
    SystemName,
    TextConfiguration,
)
from cape.pretrained.text_layouts import architecture, architecture_from_config, find_text_encoder
from cape.published.key_names import TEXT_PREFIX, PublishedCheckpointError, under

READ = "Swin V2 backbones of GraphCape, CapeX and of CapeFormer as the GraphCape code trains it"
"""What is read; errors and help say it."""

IMAGE_SIZE, PATCH = 256, 4
"""Side of a published model's input, and of a Swin V2 patch, in pixels."""

TABLE_TOLERANCE = 1e-4
"""Largest difference of a position table from its formula: float32 rounding and half precision stay below it."""


def recognise(state: Mapping[str, Tensor], system: SystemName | None = None) -> SystemConfiguration:
    """Derives the configuration from keys and shapes.

    Args:
        state: as `read_published` returns it.
        system: which system it is; None: CapeX if it projects texts, GraphCape if its decoder has a graph,
            CapeFormer otherwise.

    Raises:
        PublishedCheckpointError: a key that every such checkpoint has is missing, or the file is of another system.
    """
    backbone = _backbone(state)
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
        # GraphCape without a graph is CapeFormer under another name: both readings give the same numbers.
        if {system, found} != {"graphcape", "capeformer"} or system == "capeformer":
            raise PublishedCheckpointError(f"this is a {found} checkpoint, not {system}")
        found = system
    text = _text(state) if reads_text else None
    return SystemConfiguration(
        system=found, backbone=backbone, text=text, head=head, shot_visibility="all", trained=True
    )


def describe(configuration: SystemConfiguration, has_text_encoder: bool) -> str:
    """One line that says what a checkpoint was recognised as.

    Args:
        configuration: from `recognise`.
        has_text_encoder: whether the file holds its text encoder.
    """
    text, head = configuration.text, configuration.head
    reads = "no text"
    if text is not None:
        reads = f"{text.name} text of width {text.dimension}{', in the file' if has_text_encoder else ''}"
    return (
        f"{configuration.system}: {configuration.backbone.name}, {reads}, graph {head.graph!r}, "
        f"width {head.width}, {head.encoder_layers} encoder and {head.decoder_layers} decoder layers"
    )


def other_backbone(state: Mapping[str, Tensor]) -> str | None:
    """The name of a backbone that is not read; None for Swin V2 and where no backbone is recognised."""
    if any(key.startswith(("encoder_sample.", "encoder_query.")) for key in state):
        return "CapeFormer with its ResNet-50 encoders (encoder_sample, encoder_query)"
    if "backbone.conv1.weight" in state or any(key.startswith("backbone.layer4.") for key in state):
        return "a ResNet backbone"
    if any(key.startswith(("backbone.blocks.", "backbone.cls_token")) for key in state):
        return "a DINO or DINOv2 backbone"
    if any(key.startswith(("backbone.model.", "backbone.visual.")) for key in state):
        return "a CLIP image backbone"
    return None


def _backbone(state: Mapping[str, Tensor]) -> BackboneConfiguration:
    stages = _count(state, r"backbone\.layers\.(\d+)\.")
    depths = tuple(_count(state, rf"backbone\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages))
    heads = tuple(_shape(state, f"backbone.layers.{s}.blocks.0.attn.logit_scale")[0] for s in range(stages))
    tables = [state.get(f"backbone.layers.{s}.blocks.0.attn.relative_coords_table") for s in range(stages)]
    window = (tables[0].shape[1] + 1) // 2 if tables[0] is not None else BackboneConfiguration().window
    return BackboneConfiguration(
        embed_dim=_shape(state, "backbone.patch_embed.proj.weight")[0],
        depths=depths,
        heads=heads,
        window=window,
        pretrained_windows=_pretrained_windows(tables, window),
    )


def _pretrained_windows(tables: list[Tensor | None], window: int) -> tuple[int, ...]:
    """The window that each stage's relative positions are scaled to; () where none is scaled.

    Swin V2 computes its position bias from coordinates that are divided by the largest offset within a window: of the
    model itself, or of the model that it was pretrained as (`pretrained_window_size`). Only the table shows which.
    """
    found = []
    for stage, table in enumerate(tables):
        size = min(window, IMAGE_SIZE // PATCH // 2**stage)
        if table is None:
            found.append(0)
            continue
        name = f"backbone.layers.{stage}.blocks.0.attn.relative_coords_table"
        if table.ndim != 4 or table.shape[1:] != (2 * size - 1, 2 * size - 1, 2):
            raise PublishedCheckpointError(
                f"{name}: shape {tuple(table.shape)}; a window of {size} at stage {stage} has "
                f"(1, {2 * size - 1}, {2 * size - 1}, 2)"
            )
        # The largest entry is log2(8 · (size − 1) / (pretrained − 1) + 1) / 3.
        largest = float(table.float().abs().max())
        ratio = (2 ** (3 * largest) - 1) / 8
        pretrained = round((size - 1) / ratio) + 1 if ratio > 0 else 0
        offsets = [8 * (i - size + 1) / max(pretrained - 1, 1) for i in range(2 * size - 1)]
        expected = [math.copysign(math.log2(abs(offset) + 1) / 3, offset) for offset in offsets]
        column = table[0, :, 0, 0].float().tolist()
        if max(abs(a - b) for a, b in zip(column, expected, strict=True)) > TABLE_TOLERANCE * max(1.0, largest):
            raise PublishedCheckpointError(f"{name}: not the relative coordinates of any pretrained window")
        found.append(0 if pretrained == size else pretrained)
    return tuple(found) if any(found) else ()


def _text(state: Mapping[str, Tensor]) -> TextConfiguration:
    """The text encoder in the file; where there is none, gte-base or a CLIP, by the width that is projected."""
    if found := find_text_encoder(under(state, TEXT_PREFIX)):
        kind, encoder = found
        pooling: Literal["cls", "projection"] = "projection" if kind == "clip" else "cls"
        name = "clip" if kind == "clip" else "gte-base-en-v1.5"
        return TextConfiguration(
            kind="clip" if kind == "clip" else "gte",
            name=name,
            pooling=pooling,
            architecture=architecture(kind, encoder),
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
