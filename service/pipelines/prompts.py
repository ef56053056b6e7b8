"""From the words of a support to the questions of a language model: within their limits, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cape.capellm.grammar import AnswerGrammar
from cape.capellm.prompts import Prompts, prompts_of
from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.manifest import LanguageSystemManifest
from cape.support import KeypointDefinition, Modality
from cape.v1 import modality_pb2
from service.caches import SingleFlightCache
from service.errors import InvalidFieldError, MissingModalityError
from service.pipelines.base import SupportTrace
from service.supports.outline import SupportOutline
from service.supports.store import SupportSource

BYTES_A_TOKEN = 36
"""Of memory: a number and the place that refers to it."""

ANSWER_TOKENS = 16
"""More than any vocabulary spells two coordinates with."""


@dataclass(frozen=True, slots=True)
class WrittenPrompts:
    """A support as a language model takes it.

    Attributes:
        prompts: its words as tokens.
    """

    prompts: Prompts

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Words alone: images of a support are not looked at."""
        return ("text",)

    @property
    def nbytes(self) -> int:
        """Bytes that the tokens take, roughly."""
        return BYTES_A_TOKEN * sum(map(len, (self.prompts.opening, *self.prompts.questions)))


PromptCache: TypeAlias = SingleFlightCache[tuple[str, str], WrittenPrompts]
"""Prompts by key of the support and version of the system."""


def prompt_cache(max_bytes: int) -> PromptCache:
    """A cache of prompts that holds at most `max_bytes`."""
    return SingleFlightCache(max_bytes, size=lambda written: written.nbytes, group=lambda key: key[0])


class PromptWriter:
    """Writes the questions of one system.

    Attributes:
        grammar: of its answers.
    """

    def __init__(self, name: str, repository: Path, system: LanguageSystemManifest) -> None:
        """Reads the tokenizer that the manifest names.

        Args:
            name: of the system.
            repository: that it belongs to.
            system: its manifest.

        Raises:
            ValueError: the tokenizer is missing, unreadable or not the system's.
        """
        self._name = name
        self._system = system
        self._tokenizer = CapeLlmTokenizer.read(repository / system.tokenizer, system.special_tokens)
        self.grammar = AnswerGrammar(self._tokenizer)

    def write(self, support: SupportOutline) -> WrittenPrompts:
        """The prompts of a support; blocks for half a millisecond per thousand characters.

        Raises:
            InvalidFieldError: a text is too long; the field path is relative to the support.
        """
        self._check(support)
        keypoints = [
            KeypointDefinition(name, description)
            for name, description in zip(support.keypoint_names, support.descriptions, strict=True)
        ]
        prompts = prompts_of(self._tokenizer, self._system.instruction, support.category, keypoints)
        longest = max(map(len, prompts.questions))
        whole = self._system.image_tokens + len(prompts.opening) + longest + ANSWER_TOKENS
        if whole > self._system.limits.sequence:
            raise InvalidFieldError(
                "keypoints", f"{whole} tokens with image and instruction; at most {self._system.limits.sequence}"
            )
        return WrittenPrompts(prompts)

    def require_words(self, support: SupportOutline) -> None:
        """Refuses a support whose words are not to be used.

        Raises:
            MissingModalityError: it says so.
        """
        if modality_pb2.MODALITY_TEXT not in support.modalities:
            raise MissingModalityError(support.name, f"model {self._name} needs texts; the support has none to use")

    def _check(self, support: SupportOutline) -> None:
        limits, instruction = self._system.limits, self._system.instruction
        if instruction.style == "step_by_step":  # the only one that names the category
            self._check_length("category", support.category, limits.category)
        for index, (name, description) in enumerate(zip(support.keypoint_names, support.descriptions, strict=True)):
            self._check_length(f"keypoints[{index}].name", name, limits.name)
            if instruction.descriptions:
                self._check_length(f"keypoints[{index}].description", description, limits.description)

    def _check_length(self, field: str, text: str, most: int) -> None:
        tokens = len(self._tokenizer.encode(text))
        if tokens > most:
            raise InvalidFieldError(field, f"{tokens} tokens of {self._name}'s vocabulary; at most {most}")


class SupportPrompts:
    """The prompts of supports, written once as long as the cache holds them."""

    def __init__(self, writers: Mapping[str, PromptWriter], versions: Mapping[str, str], cache: PromptCache) -> None:
        """Puts the parts together.

        Args:
            writers: by system.
            versions: of the systems.
            cache: keeps prompts.
        """
        self._writers = writers
        self._versions = versions
        self._cache = cache

    def has(self, system: str, source: SupportSource) -> bool:
        """Whether the prompts of a support are cached."""
        return (source.definition.key, self._versions[system]) in self._cache

    async def get(
        self, system: str, source: SupportSource, deadline: float | None = None
    ) -> tuple[WrittenPrompts, SupportTrace]:
        """Looks a support's prompts up, or writes them.

        Raises:
            MissingModalityError: its words are not to be used.
            ServiceError: a text is too long, as the support's `complaint` has it.
            DeadlineError: the deadline passed.
        """
        definition, writer = source.definition, self._writers[system]
        writer.require_words(definition)

        async def compute() -> WrittenPrompts:
            # In a thread: a hundred long descriptions would stop everybody else for 50 ms.
            return await asyncio.to_thread(writer.write, definition)

        try:
            written, hit = await self._cache.get((definition.key, self._versions[system]), compute, deadline)
        except InvalidFieldError as error:
            raise source.complaint(error) from None
        trace = SupportTrace(cache_hit=True) if hit else SupportTrace(False, len(definition.keypoint_names), 0, 0.0)
        return written, trace

    def forget(self, key: str) -> None:
        """Drops the prompts of a support, for every system."""
        self._cache.invalidate(key)

    def known(self) -> set[str]:
        """Keys of the supports of which prompts are kept, or being written."""
        return {key for key, _ in self._cache.known()}
