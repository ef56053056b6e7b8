"""Texts: how they are tokenised, who shares a batch, and what is encoded only once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from service.batching.batcher import Batcher
from service.pipelines.texts import TextEmbedder, TextError, TextTokenizer, embedding_cache, text_embedders
from tests.service.numpy_engine import DIMENSION, NumpyEngine, tiny_manifest, until, write_tokenizer


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def engine() -> NumpyEngine:
    return NumpyEngine()


@pytest.fixture
def embedder(repository: Path, engine: NumpyEngine) -> TextEmbedder:
    manifest = tiny_manifest()
    embedders = text_embedders(repository, manifest, Batcher(engine, manifest), embedding_cache(10_000))
    return embedders["flf"]


def tokenizer(repository: Path) -> TextTokenizer:
    encoder = tiny_manifest().systems["flf"].text_encoder
    assert encoder is not None
    return TextTokenizer(repository, encoder)


def test_a_text_is_padded_to_eight_tokens(repository: Path) -> None:
    inputs = tokenizer(repository).encode(["left eye"])[0]
    assert inputs["input_ids"].tolist() == [[2, 6, 0, 0, 0, 0, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]]
    assert inputs["input_ids"].dtype == inputs["attention_mask"].dtype == np.int64


@pytest.mark.parametrize(("words", "tokens"), [(8, 8), (9, 16), (16, 16), (17, 20), (20, 20)])
def test_a_text_takes_a_multiple_of_eight_tokens_up_to_what_the_encoder_takes(
    repository: Path, words: int, tokens: int
) -> None:
    inputs = tokenizer(repository).encode(["leg " * words])[0]
    assert inputs["input_ids"].shape == (1, tokens)
    assert inputs["attention_mask"].sum() == min(words, 20)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        tokenizer(tmp_path)


async def test_texts_of_one_support_are_encoded_in_one_batch(embedder: TextEmbedder, engine: NumpyEngine) -> None:
    embeddings = await embedder.embed(["left eye", "right eye", "front leg"])
    assert engine.batches() == [3]
    assert embeddings.vectors.shape == (3, DIMENSION)
    assert embeddings.cache_hits == 0
    expected = [2 + 6, 3 + 6, 4 + 7]
    np.testing.assert_allclose(embeddings.vectors[:, 0], np.cos(expected), rtol=1e-6)


async def test_texts_of_different_supports_meet_in_one_batch(embedder: TextEmbedder, engine: NumpyEngine) -> None:
    with engine.held():
        running = asyncio.create_task(embedder.embed(["back leg"]))
        await until(lambda: len(engine.runs) == 1)
        one, other = (asyncio.create_task(embedder.embed(texts)) for texts in (["eye"], ["right eye", "leg"]))
        await until(lambda: embedder._runner.queued == 3)
    await asyncio.gather(running, one, other)
    assert engine.batches() == [1, 3]


async def test_a_known_text_is_not_encoded_again(embedder: TextEmbedder, engine: NumpyEngine) -> None:
    first = await embedder.embed(["left eye", "right eye"])
    second = await embedder.embed(["right eye", "back leg", "left eye"])
    assert (second.cache_hits, engine.batches()) == (2, [2, 1])
    np.testing.assert_array_equal(second.vectors[[2, 0]], first.vectors)
    assert (await embedder.embed(["left eye"])).queue_seconds == 0


async def test_the_same_text_twice_is_encoded_once(embedder: TextEmbedder, engine: NumpyEngine) -> None:
    embeddings = await embedder.embed(["leg", "leg"])
    assert engine.batches() == [1]
    np.testing.assert_array_equal(embeddings.vectors[0], embeddings.vectors[1])


async def test_a_kept_embedding_does_not_keep_its_whole_batch(embedder: TextEmbedder) -> None:
    cache = embedder._cache
    await embedder.embed(["left eye", "right eye"])
    assert cache.statistics.bytes == 2 * DIMENSION * 4
    (vector, _), hit = await cache.get(("", "1" * 64, "left eye"), pytest.fail)
    assert hit
    assert vector.base is None


async def test_a_caller_who_leaves_takes_its_texts_out_of_the_queue(
    embedder: TextEmbedder, engine: NumpyEngine
) -> None:
    with engine.held():
        running = asyncio.create_task(embedder.embed(["leg"]))
        await until(lambda: len(engine.runs) == 1)
        leaving = asyncio.create_task(embedder.embed(["left eye", "right eye"]))
        await until(lambda: embedder._runner.queued == 2)
        leaving.cancel()
        await until(lambda: embedder._runner.queued == 0)
    await running
    assert engine.batches() == [1]


def test_a_text_of_too_many_tokens_is_refused_not_cut(repository: Path) -> None:
    with pytest.raises(TextError, match="21 tokens of the text encoder's vocabulary; at most 20"):
        tokenizer(repository).encode(["leg " * 21])


@pytest.mark.parametrize("text", ["👁️", "left foo bar", "\u200b"])
def test_a_text_that_is_mostly_unknown_to_the_vocabulary_is_refused(repository: Path, text: str) -> None:
    with pytest.raises(TextError, match="vocabulary"):
        tokenizer(repository).encode([text])


def test_a_text_with_a_few_unknown_words_is_read(repository: Path) -> None:
    tokenizer(repository).encode(["left eye foo", "left foo"])
