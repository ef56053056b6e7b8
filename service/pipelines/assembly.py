"""The pipelines of a repository's systems, and the caches that they share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cape.manifest import Manifest
from cape.v1 import modality_pb2
from service.engines.base import BatchRunner
from service.errors import InvalidFieldError
from service.pipelines.base import Pipeline
from service.pipelines.language_model import LanguageEstimator
from service.pipelines.prompts import prompt_cache
from service.pipelines.support_encoder import SupportEncoder
from service.pipelines.support_tokens import PoseEstimator, support_cache
from service.pipelines.texts import embedding_cache, text_embedders
from service.supports.outline import SupportOutline
from service.telemetry.collectors import CountsItself


class Pipelines:
    """What answers for each system.

    Attributes:
        by_system: pipelines by the system's name.
        caches: by their name in metrics.
    """

    def __init__(
        self,
        repository: Path,
        manifest: Manifest,
        runner: BatchRunner,
        *,
        text_cache_bytes: int,
        support_cache_bytes: int,
    ) -> None:
        """Puts the parts together.

        Args:
            repository: folder of an exported repository.
            manifest: its manifest.
            runner: runs components.
            text_cache_bytes: memory for text embeddings, and as much for the questions of language models.
            support_cache_bytes: memory for support tokens.

        Raises:
            ValueError: a tokenizer is missing or unreadable.
        """
        texts, tokens = embedding_cache(text_cache_bytes), support_cache(support_cache_bytes)
        prompts = prompt_cache(text_cache_bytes)
        embedders = text_embedders(repository, manifest, runner, texts)
        encoder = SupportEncoder(manifest, runner, embedders)
        # Where every system reads texts, a support whose texts none of them can read is refused when it is created.
        self._embedders = list(embedders.values()) if len(embedders) == len(manifest.systems) else []
        self._poses = PoseEstimator(manifest, runner, encoder, tokens)
        self._language = LanguageEstimator(repository, manifest, runner, prompts)
        self._words_alone = not manifest.support_systems
        self.by_system: Mapping[str, Pipeline[Any, Any]] = {
            **dict.fromkeys(manifest.support_systems, self._poses),
            **dict.fromkeys(manifest.language_systems, self._language),
        }
        self.caches: Mapping[str, CountsItself] = {"texts": texts, "prompts": prompts, "supports": tokens}

    def forget(self, key: str) -> None:
        """Drops what was made of a support: it has been deleted."""
        self._poses.forget(key)
        self._language.forget(key)

    def known(self) -> set[str]:
        """Keys of the supports of which something is kept, or being computed."""
        return self._poses.known() | self._language.known()

    def check_words(self, support: SupportOutline) -> None:
        """Refuses texts that no system of the repository can read.

        Raises:
            InvalidFieldError: the field path is relative to the support.
        """
        if self._words_alone and modality_pb2.MODALITY_TEXT in support.modalities:
            self._language.check_words(support)
        if modality_pb2.MODALITY_TEXT in support.modalities and self._embedders:
            errors = []
            for embedder in self._embedders:
                try:
                    embedder.check(support)
                except InvalidFieldError as error:
                    errors.append(error)
            if len(errors) == len(self._embedders):
                raise errors[0]
