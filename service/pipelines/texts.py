"""From texts to embeddings: tokenised as the repository says, encoded in shared batches, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from cape.manifest import Manifest, TextEncoderManifest
from service.caches import SingleFlightCache
from service.engines.base import BatchRunner
from service.errors import InvalidFieldError
from service.process.tasks import all_of
from service.supports.outline import SupportOutline

TOKEN_MULTIPLE = 8
"""Texts are padded to a multiple of so many tokens: few different shapes, so that texts of different supports
meet in one batch, at little wasted work."""

TokenisedText: TypeAlias = dict[str, npt.NDArray[np.int64]]

Embedding: TypeAlias = npt.NDArray[np.float32]

EmbeddingCache: TypeAlias = SingleFlightCache[tuple[str, str, str], tuple[Embedding, float]]
"""Embeddings, and how long they waited for the engine, by owner, digest of the text encoder and text."""


def embedding_cache(max_bytes: int) -> EmbeddingCache:
    """A cache of text embeddings that holds at most `max_bytes`."""
    return SingleFlightCache(max_bytes, size=lambda entry: entry[0].nbytes)


class TextError(ValueError):
    """A text that a text encoder cannot tell from others.

    Attributes:
        text: the text.
    """

    def __init__(self, text: str, problem: str) -> None:
        self.text = text
        super().__init__(problem)


def text_field_error(error: TextError, support: SupportOutline) -> InvalidFieldError:
    """The same error with the field of the support that holds the text."""
    index = support.texts.index(error.text)
    field = "description" if support.descriptions[index] else "name"
    return InvalidFieldError(f"keypoints[{index}].{field}", str(error))


def _unknown_token(tokenizer: Tokenizer) -> int | None:
    """The token of characters that the vocabulary lacks; None where it lacks none, as with bytes."""
    for name in (getattr(tokenizer.model, "unk_token", None), "[UNK]", "<unk>"):
        if name and (token := tokenizer.token_to_id(name)) is not None:
            return int(token)
    return None


class TextTokenizer:
    """Turns a text into the inputs of a text encoder."""

    def __init__(self, repository: Path, encoder: TextEncoderManifest) -> None:
        """Reads the tokenizer that the manifest names.

        Raises:
            ValueError: the file is missing or is no tokenizer.
        """
        path = repository / encoder.tokenizer
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises bare exceptions.
            raise ValueError(f"{path}: not a readable tokenizer: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._unknown = _unknown_token(self._tokenizer)
        self._max_tokens = encoder.max_tokens
        self._pad_token_id = encoder.pad_token_id

    def encode(self, texts: Sequence[str]) -> list[TokenisedText]:
        """Tokenises texts. Blocks for half a millisecond per thousand characters.

        Returns:
            input_ids and attention_mask of each, int64 [1, T]: a support of one keypoint, without batch axis. T
            is a multiple of 8 unless the encoder's largest number of tokens is not.

        Raises:
            TextError: a text has too many tokens, or most of it is unknown to the vocabulary.
        """
        # Not the library's encode_batch: it starts a thread per CPU, all of which the engine keeps busy.
        return [self._padded(self._checked(text)) for text in texts]

    def _checked(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(text)
        words = [
            token
            for token, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True)
            if not special or token == self._unknown
        ]
        if len(encoding.ids) > self._max_tokens:
            raise TextError(
                text, f"{len(encoding.ids)} tokens of the text encoder's vocabulary; at most {self._max_tokens}"
            )
        unknown = words.count(self._unknown) if self._unknown is not None else 0
        if not words or unknown > len(words) / 2:
            raise TextError(
                text,
                "the text encoder's vocabulary does not have it: use other words, or only MODALITY_IMAGE",
            )
        return encoding.ids

    def _padded(self, ids: list[int]) -> TokenisedText:
        length = min(-(-len(ids) // TOKEN_MULTIPLE) * TOKEN_MULTIPLE, self._max_tokens)
        input_ids = np.full((1, length), self._pad_token_id, dtype=np.int64)
        attention_mask = np.zeros((1, length), dtype=np.int64)
        input_ids[0, : len(ids)] = ids
        attention_mask[0, : len(ids)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Encoded texts.

    Attributes:
        vectors: float32 [K, D], unit length.
        cache_hits: how many of them were there already.
        queue_seconds: longest time that one of them waited for the engine; 0 if all were there.
    """

    vectors: npt.NDArray[np.float32]
    cache_hits: int
    queue_seconds: float


class TextEmbedder:
    """Encodes texts with one text encoder, each text once as long as the cache holds it."""

    def __init__(
        self, component: str, digest: str, tokenizer: TextTokenizer, runner: BatchRunner, cache: EmbeddingCache
    ) -> None:
        """Puts the parts together.

        Args:
            component: the text encoder's name in the repository.
            digest: digest of its graph; part of the cache's key.
            tokenizer: makes its inputs.
            runner: runs it.
            cache: keeps embeddings; may be shared by several encoders.
        """
        self._component = component
        self._digest = digest
        self._tokenizer = tokenizer
        self._runner = runner
        self._cache = cache

    def check(self, support: SupportOutline) -> None:
        """Refuses a support whose texts the text encoder cannot read.

        Raises:
            InvalidFieldError: relative to the support.
        """
        try:
            self._tokenizer.encode(support.texts)
        except TextError as error:
            raise text_field_error(error, support) from None

    async def embed(self, texts: Sequence[str], deadline: float | None = None, owner: str = "") -> Embeddings:
        """Encodes texts, or looks their embeddings up.

        Args:
            texts: to encode.
            deadline: event loop time by which they are needed.
            owner: whose texts; answers say which were known, and that must not tell of other tenants' texts.

        Raises:
            TextError: the text encoder cannot read a text.
            DeadlineError, QueueFullError, EngineError: from the runner.
        """
        new = [text for text in texts if (owner, self._digest, text) not in self._cache]
        # In a thread: a hundred long descriptions would stop everybody else for 50 ms.
        tokens = await asyncio.to_thread(self._tokenizer.encode, new) if new else []
        inputs = dict(zip(new, tokens, strict=True))
        entries = await all_of(self._embed(owner, text, inputs.get(text), deadline) for text in texts)
        return Embeddings(
            np.stack([vector for (vector, _), _ in entries]),
            sum(hit for _, hit in entries),
            max(0.0 if hit else waited for (_, waited), hit in entries),
        )

    async def _embed(
        self, owner: str, text: str, inputs: TokenisedText | None, deadline: float | None
    ) -> tuple[tuple[Embedding, float], bool]:
        async def encode() -> tuple[Embedding, float]:
            # Without inputs the text was in the cache a moment ago, and has been pushed out since.
            tokens = inputs or self._tokenizer.encode([text])[0]
            row = await self._runner.submit(self._component, tokens, ["embeddings"], deadline)
            # A copy: a view would keep the whole batch alive.
            return row.outputs["embeddings"][0].astype(np.float32, copy=True), row.waited

        return await self._cache.get((owner, self._digest, text), encode, deadline)


def text_embedders(
    repository: Path, manifest: Manifest, runner: BatchRunner, cache: EmbeddingCache
) -> dict[str, TextEmbedder]:
    """An embedder for each system that reads text, by the system's name.

    Raises:
        ValueError: a tokenizer is missing or unreadable.
    """
    embedders = {}
    for name, system in manifest.support_systems.items():
        if system.text_encoder is not None and system.modalities.text != "unused":
            component = system.components["text_encoder"]
            tokenizer = TextTokenizer(repository, system.text_encoder)
            digest = manifest.components[component].sha256
            embedders[name] = TextEmbedder(component, digest, tokenizer, runner, cache)
    return embedders
