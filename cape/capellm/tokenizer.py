"""Tokenisation with a tokenizers JSON file, and training of a small vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cape.capellm.configuration import CapeLlmConfiguration, SpecialTokens
from cape.capellm.coordinates import ANSWER_HEAD, ANSWER_MIDDLE, ANSWER_TAIL, KEYPOINT_TOKEN, PLACES
from cape.capellm.instructions import Segment

LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's pre-tokenisation pattern; digits stay together in groups of up to three."""


class TokenizerError(ValueError):
    """A tokenizer is invalid or lacks a token that the model needs. The message names it."""


class Tokens(NamedTuple):
    """A part of a token sequence.

    Attributes:
        ids: its tokens.
        spoken: for each token, whether it is the assistant's and counts in the loss.
    """

    ids: tuple[int, ...]
    spoken: tuple[bool, ...]

    @staticmethod
    def joined(pieces: Iterable[Tokens]) -> Tokens:
        """Concatenates pieces."""
        parts = tuple(pieces)
        return Tokens(tuple(i for part in parts for i in part.ids), tuple(s for part in parts for s in part.spoken))


class CapeLlmTokenizer:
    """Turns segments of conversations into tokens.

    Args:
        tokenizer: the vocabulary.
        special: its begin and end tokens.

    Attributes:
        begin, end: ids of the tokens that start a sequence and end an answer.
        keypoint: id of <KEYPOINT>; None if coordinates are text.

    Raises:
        TokenizerError: a token is missing.
    """

    def __init__(self, tokenizer: Tokenizer, special: SpecialTokens) -> None:
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.begin = self._id(special.begin)
        self.end = self._id(special.end)
        self.keypoint = self._id(KEYPOINT_TOKEN) if special.keypoint else None

    @classmethod
    def read(cls, path: Path, special: SpecialTokens) -> CapeLlmTokenizer:
        """Reads a tokenizers JSON file.

        Raises:
            TokenizerError: the file is invalid, or lacks a token.
        """
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(f"{path}: not a tokenizers JSON file ({error})") from None
        return cls(tokenizer, special)

    def encode(self, text: str) -> tuple[int, ...]:
        """Converts a text to token ids, without begin and end tokens."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Converts token ids to text, without begin and end tokens."""
        kept = [token for token in ids if token not in (self.begin, self.end)]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def tokens(self, segments: Iterable[Segment]) -> Tokens:
        """Encodes segments in order, with an end token after each of the assistant's.

        Segments are encoded separately, so that the tokens of shared or forced parts do not depend on what follows.
        """
        ids: list[int] = []
        spoken: list[bool] = []
        for segment in segments:
            own = (*self.encode(segment.text), self.end) if segment.spoken else self.encode(segment.text)
            ids += own
            spoken += [segment.spoken] * len(own)
        return Tokens(tuple(ids), tuple(spoken))

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise TokenizerError(f"the tokenizer has no token {token}")
        return int(found)


def train_tokenizer(texts: Iterable[str], configuration: CapeLlmConfiguration, vocabulary: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer in which any three digits are one token, as in Llama 3.

    Args:
        texts: training texts.
        configuration: source of the special tokens.
        vocabulary: maximum number of tokens.

    Raises:
        TokenizerError: the vocabulary is too small for all numbers.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[configuration.language.begin, configuration.language.end, KEYPOINT_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_numbers(texts), trainer)
    broken = [n for n in range(PLACES) if len(tokenizer.encode(f"{n:03d}").ids) != 1]
    if broken:
        raise TokenizerError(f"vocabulary {vocabulary}: too small, {len(broken)} numbers are several tokens")
    return tokenizer


def _with_numbers(texts: Iterable[str]) -> Iterator[str]:
    """Yields the texts, and every number often enough to be merged before rare words."""
    count = 0
    for text in texts:
        count += 1
        yield text
    for number in range(PLACES):
        yield f"{ANSWER_HEAD}{number:03d}{ANSWER_MIDDLE}{number:03d}{ANSWER_TAIL}" * max(100, count // 4)
