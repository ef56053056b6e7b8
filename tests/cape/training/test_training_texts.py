from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cape.checkpoints import untrained
from cape.data.dataset import Category
from cape.support import KeypointDefinition
from cape.training.texts import TextBank, distinct_texts, text_tokenizer
from tests.conftest import tiny_configuration

CAT = Category(
    "cat",
    "animals",
    (KeypointDefinition("nose", "tip of the nose"), KeypointDefinition("tail"), KeypointDefinition("left eye")),
    (),
    (("its nose", "snout"), (), ("the left eye",)),
)
CAR = Category("car", "vehicles", (KeypointDefinition("roof"),))


def bank() -> TextBank:
    """Rows that are their own number."""
    texts = distinct_texts([CAT, CAR])
    return TextBank([CAT, CAR], np.arange(len(texts), dtype=np.float32)[:, np.newaxis], texts)


def chosen(generator: np.random.Generator, paraphrase: float) -> tuple[str, ...]:
    texts = distinct_texts([CAT, CAR])
    return tuple(texts[int(row)] for row in bank().choose(0, generator, paraphrase)[:, 0])


def test_a_keypoint_is_called_what_serving_reads_unless_it_is_paraphrased() -> None:
    assert chosen(np.random.default_rng(0), 0.0) == ("tip of the nose", "tail", "left eye")
    generator = np.random.default_rng(1)
    drawn = [chosen(generator, 1.0) for _ in range(50)]
    assert {texts[0] for texts in drawn} == {"its nose", "snout", "nose"}
    assert {texts[1] for texts in drawn} == {"tail"}
    assert {texts[2] for texts in drawn} == {"the left eye"}


def test_paraphrases_come_as_often_as_asked() -> None:
    generator = np.random.default_rng(2)
    others = sum(chosen(generator, 0.25)[0] != "tip of the nose" for _ in range(400))
    assert others / 400 == pytest.approx(0.25, abs=0.07)


def test_embedded_texts_are_what_the_encoder_says_and_ids_lead_to_the_same(tokenizer_file: Path) -> None:
    system = untrained(tiny_configuration(), seed=7)
    assert system.configuration.text is not None
    tokenizer = text_tokenizer(tokenizer_file, system.configuration.text)
    embedded = TextBank.embedded([CAT, CAR], system, tokenizer).choose(0, np.random.default_rng(0))
    encodings = tokenizer.encode_batch(list(CAT.texts))
    with torch.inference_mode():
        expected = system.encode_text(
            torch.tensor([[encoding.ids for encoding in encodings]]),
            torch.tensor([[encoding.attention_mask for encoding in encodings]]),
        )[0].numpy()
        rows = TextBank.tokenised([CAT, CAR], tokenizer).choose(0, np.random.default_rng(0))
        ids = torch.from_numpy(np.asarray(rows, dtype=np.int64))[None]
        from_ids = system.encode_text((ids - 1).clamp(min=0), (ids > 0).long())[0].numpy()
    np.testing.assert_allclose(embedded, expected, atol=1e-5)
    np.testing.assert_allclose(from_ids, expected, atol=1e-5)
