"""Loads a checkpoint by its path: a capeserve folder or a published file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.export import PUBLISHED_SUFFIXES

if TYPE_CHECKING:
    from cape.checkpoints import Checkpoint


def load_any(path: Path, text_encoder: Path | None, tokenizer: Path | None) -> Checkpoint:
    """Loads a checkpoint; an error ends the command with a clear message.

    Args:
        path: folder with config.json and model.safetensors, or a published .pth file.
        text_encoder: Hugging Face folder of the text encoder, for a .pth file without one.
        tokenizer: tokenizer.json, for a checkpoint without one.
    """
    from cape.checkpoints import CheckpointError, load_checkpoint
    from cape.pretrained.packages import PretrainedError
    from cape.published.key_names import PublishedCheckpointError
    from cape.published.reading import open_published

    try:
        if path.suffix in PUBLISHED_SUFFIXES:
            return open_published(path, text_encoder=text_encoder, tokenizer=tokenizer)[0]
        return load_checkpoint(path, tokenizer)
    except (CheckpointError, PublishedCheckpointError, PretrainedError) as error:
        raise click.ClickException(str(error)) from None
