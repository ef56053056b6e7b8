"""The weights that a run begins with."""

from __future__ import annotations

from pathlib import Path

import torch

from cape.checkpoints import CheckpointError, load_checkpoint
from cape.models.system import System
from cape.pretrained.text_encoders import bert_tokenizer, packaged_text_encoder, read_text_encoder
from cape.published.key_names import convert, under
from cape.published.reading import open_published
from cape.training.configuration import Initialisation, TowerConfiguration
from cape.training.model import initialise_head

PUBLISHED_SUFFIXES = (".pth", ".pt", ".ckpt")


def begin(
    system: System, towers: TowerConfiguration, seed: int, initialisation: Initialisation = "published"
) -> Path | None:
    """Fills a model with what its run begins with: a published or earlier model's parts, else fresh weights.

    Args:
        system: its packaged towers are pretrained already.
        towers: where weights come from.
        seed: of fresh weights.
        initialisation: how these are drawn.

    Returns:
        The text encoder's tokenizer; None for a system that reads no text.

    Raises:
        CheckpointError, PretrainedError, PublishedCheckpointError: a file is missing, or its parts do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        initialise_head(system, initialisation)
    tokenizer = None
    if towers.initial is not None:
        tokenizer = _take_parts(system, towers, towers.initial)
    if towers.image_file is not None:
        _take_backbone(system, towers.image_file)
    text = system.configuration.text
    if text is None:
        return None
    assert system.text_encoder is not None
    if towers.text_folder is not None:
        tower = read_text_encoder(towers.text_folder)
        system.text_encoder.tower.load_state_dict(tower.state)
        return tower.tokenizer
    if text.weights.startswith("package:"):
        return packaged_text_encoder(text.weights.removeprefix("package:")).tokenizer
    return tokenizer or bert_tokenizer(text)


def _take_parts(system: System, towers: TowerConfiguration, source: Path) -> Path | None:
    """Copies the wanted parts of another model; returns that model's tokenizer."""
    if source.suffix in PUBLISHED_SUFFIXES:
        checkpoint, _ = open_published(source)
    else:
        checkpoint = load_checkpoint(source)
    theirs, own = checkpoint.system.state_dict(), system.state_dict()
    for part in towers.initial_parts:
        wanted = {key for key in own if _part_of(key) == part}
        fitting = {key: theirs[key] for key in wanted if key in theirs and theirs[key].shape == own[key].shape}
        if missing := sorted(wanted - fitting.keys()):
            raise CheckpointError(
                f"{source}: {part}: {len(missing)} of {len(wanted)} tensors are missing or of another shape, "
                f"{missing[0]} for one"
            )
        system.load_state_dict(fitting, strict=False)
    return checkpoint.tokenizer


def _take_backbone(system: System, path: Path) -> None:
    """Reads a Swin V2 in Microsoft's layout: a classifier's file, or the encoder of one pretrained on masked images."""
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch errors alike: none of them says what the file should be
        raise CheckpointError(f"{path}: not a file of tensors ({type(error).__name__})") from None
    state = document.get("model", document)
    state = under(state, "encoder.") or state
    converted = convert({f"backbone.{key}": value for key, value in state.items()})
    own = system.image_backbone.state_dict()
    fitting = {key: value for key, value in under(converted, "image_backbone.").items() if key in own}
    try:
        system.image_backbone.load_state_dict(fitting)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None


def _part_of(key: str) -> str:
    """The part of a model that a parameter belongs to."""
    first = key.split(".", 1)[0]
    return first if first in ("image_backbone", "text_encoder") else "head"
