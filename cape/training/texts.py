"""What keypoints are called during training: every text of every category, encoded or tokenised once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from cape.configuration import TextConfiguration
from cape.data.dataset import Category
from cape.models.system import System

ENCODED_AT_ONCE = 64

ANONYMOUS = tuple(f"keypoint {number}" for number in range(1, 101))
"""Texts of keypoints that nobody has named, up to the most that a model takes."""


def text_tokenizer(path: Path, text: TextConfiguration) -> Tokenizer:
    """The tokenizer of a text encoder, cutting and padding as the encoder needs it."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(text.max_tokens)
    tokenizer.enable_padding(pad_id=int(text.architecture.get("pad_token_id") or 0))
    return tokenizer


class TextBank:
    """The texts of categories.

    A keypoint's own text is what serving reads of it (its description, else its name). Its other texts are its
    paraphrases, and its name where that is not the text already.

    Args:
        categories: in the order of the episodes' pools.
        rows: for each distinct text one row: an embedding or token ids; see `embedded` and `tokenised`.
        texts: the distinct texts, in the order of the rows.
    """

    def __init__(self, categories: Sequence[Category], rows: npt.NDArray[np.generic], texts: Sequence[str]) -> None:
        self._rows = rows
        index = {text: row for row, text in enumerate(texts)}
        self._anonymous = [index[text] for text in ANONYMOUS]
        self._choices = [[[index[text] for text in keypoint] for keypoint in _texts_of(each)] for each in categories]

    @classmethod
    def embedded(cls, categories: Sequence[Category], system: System, tokenizer: Tokenizer) -> TextBank:
        """Encodes all texts with a frozen encoder; rows are unit vectors, float32 [D]."""
        texts = distinct_texts(categories)
        device = next(system.parameters()).device
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), ENCODED_AT_ONCE):
                encodings = tokenizer.encode_batch(texts[start : start + ENCODED_AT_ONCE])
                ids = torch.tensor([[encoding.ids for encoding in encodings]], device=device)
                mask = torch.tensor([[encoding.attention_mask for encoding in encodings]], device=device)
                parts.append(system.encode_text(ids, mask)[0].float().cpu().numpy())
        return cls(categories, np.concatenate(parts), texts)

    @classmethod
    def tokenised(cls, categories: Sequence[Category], tokenizer: Tokenizer) -> TextBank:
        """For an encoder that is trained; rows are token ids + 1, int64 [T], 0 where there is no token."""
        texts = distinct_texts(categories)
        encodings = tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64) + 1
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        return cls(categories, ids * mask, texts)

    def anonymous(self, category: int) -> npt.NDArray[np.generic]:
        """Rows of a category's keypoints as if nobody had named them: [K, D] or [K, T]."""
        return self._rows[self._anonymous[: len(self._choices[category])]]

    def choose(self, category: int, generator: np.random.Generator, paraphrase: float = 0.0) -> npt.NDArray[np.generic]:
        """Rows of a category's keypoints.

        Args:
            category: its index.
            generator: draws.
            paraphrase: probability that a keypoint gets one of its other texts, if it has some.

        Returns:
            [K, D] or [K, T].
        """
        choices = self._choices[category]
        other = generator.random(len(choices)) < paraphrase
        place = generator.random(len(choices))
        chosen = [
            texts[1 + int(place[k] * (len(texts) - 1))] if other[k] and len(texts) > 1 else texts[0]
            for k, texts in enumerate(choices)
        ]
        return self._rows[chosen]


def distinct_texts(categories: Sequence[Category]) -> list[str]:
    """Every text of every keypoint, and those of keypoints without a name, once, sorted."""
    named = {text for category in categories for keypoint in _texts_of(category) for text in keypoint}
    return sorted(named | set(ANONYMOUS))


def _texts_of(category: Category) -> list[list[str]]:
    """For each keypoint its own text, then the others."""
    found = []
    for index, (keypoint, own) in enumerate(zip(category.keypoints, category.texts, strict=True)):
        others = category.paraphrases[index] if category.paraphrases else ()
        found.append(list(dict.fromkeys((own, *others, keypoint.name))))
    return found
