"""The pipeline: what of a support is used, what is computed only once, and how queries flow through."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cape.v1 import support_pb2
from service.batching.batcher import Batcher
from service.errors import DeadlineError, MissingModalityError
from service.pipelines.support_encoder import SupportEncoder
from service.pipelines.support_tokens import PoseEstimator, SupportTokens, SupportTrace, support_cache
from service.pipelines.texts import embedding_cache, text_embedders
from service.process.tasks import together
from service.supports.outline import SupportOutline
from service.supports.prepared_support import PreparedSupport, Shot
from service.supports.store import SupportSource
from tests.service.numpy_engine import MAPS, SIZE, NumpyEngine, tiny_manifest, until, write_tokenizer

TEXTS = ("left eye", "right eye", "front leg")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("repository"))


class Bench:
    """A pipeline on a numpy engine, and the supports that it may load."""

    def __init__(self, repository: Path, **manifest: Any) -> None:
        self.engine = NumpyEngine()
        self.manifest = tiny_manifest(**manifest)
        self.batcher = Batcher(self.engine, self.manifest)
        embedders = text_embedders(repository, self.manifest, self.batcher, embedding_cache(10_000))
        encoder = SupportEncoder(self.manifest, self.batcher, embedders)
        self.estimator = PoseEstimator(self.manifest, self.batcher, encoder, support_cache(10_000))
        self.loads = 0

    async def support(
        self, support: PreparedSupport, deadline: float | None = None
    ) -> tuple[SupportTokens, SupportTrace]:
        async def load() -> PreparedSupport:
            self.loads += 1
            return support

        definition = SupportOutline.of(support.name, support_pb2.Support())
        source = SupportSource(definition, load, complaint=lambda error: error)
        return await self.estimator.support_tokens("flf", source, deadline)

    def fusion_inputs(self) -> dict[str, np.ndarray]:
        """Inputs of the only run of support_fusion."""
        (inputs,) = [inputs for component, inputs in self.engine.runs if component == "support_fusion"]
        return inputs


@pytest.fixture
def bench(repository: Path) -> Bench:
    return Bench(repository)


def crop(brightness: float) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), round(brightness * 255), dtype=np.uint8)


def shot(brightness: float = 0.4, hidden: tuple[int, ...] = (), outside: tuple[int, ...] = ()) -> Shot:
    keypoints = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=np.float32)
    keypoints[list(outside), 0] = 1.2
    return Shot(crop(brightness), keypoints, np.array([index not in hidden for index in range(3)]))


def support_set(*shots: Shot, texts: tuple[str, ...] = TEXTS, name: str = "supports/a") -> PreparedSupport:
    return PreparedSupport(name, texts, np.array([[0, 1], [2, 1]]), shots, keypoints=3)


async def test_an_answer_is_made_from_its_own_query_and_support(bench: Bench) -> None:
    support, _ = await bench.support(support_set(shot(0.4)))
    queries = await bench.estimator.query_features("flf", [crop(0.2), crop(0.8)])
    answer = await bench.estimator.estimate("flf", support, queries)
    assert [estimate.keypoints.shape for estimate in answer.estimates] == [(3, 2), (3, 2)]
    for estimate, brightness in zip(answer.estimates, (0.2, 0.8), strict=True):
        np.testing.assert_allclose(estimate.keypoints[:, 0], brightness, atol=1e-6)
        np.testing.assert_allclose(estimate.keypoints[:, 1], 0.4, atol=1e-6)
    assert bench.engine.batches("pose_decoder") == [2]


async def test_a_warm_query_runs_the_backbone_and_the_decoder_and_nothing_else(bench: Bench) -> None:
    await bench.support(support_set(shot()))
    bench.engine.runs.clear()
    support, trace = await bench.support(support_set(shot()))
    await bench.estimator.estimate("flf", support, await bench.estimator.query_features("flf", [crop(0.5)]))
    assert [component for component, _ in bench.engine.runs] == ["image_backbone", "pose_decoder"]
    assert trace == SupportTrace(cache_hit=True)
    assert bench.loads == 1


async def test_keypoints_are_padded_to_a_bucket_with_rows_that_mean_nothing(bench: Bench) -> None:
    support, _ = await bench.support(support_set(shot()))
    inputs = bench.fusion_inputs()
    assert inputs["keypoints"].shape == (1, 1, 4, 2)
    assert inputs["visible"][0, 0].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(np.linalg.norm(inputs["embeddings"][0], axis=1), [1, 1, 1, 0], atol=1e-6)
    assert support.mask[0].tolist() == [1, 1, 1, 0]
    assert support.located.tolist() == [True, True, True]


async def test_the_skeleton_reaches_the_decoder_as_a_symmetric_matrix(bench: Bench) -> None:
    support, _ = await bench.support(support_set(shot()))
    assert support.adjacency.tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert support.adjacency.dtype == np.float32


async def test_several_shots_go_into_one_pass(bench: Bench) -> None:
    await bench.support(support_set(shot(0.2), shot(0.6, hidden=(1,))))
    inputs = bench.fusion_inputs()
    np.testing.assert_allclose(inputs["features"][0, :, 0, 0, 0], [0.2, 0.6], atol=1e-6)
    assert inputs["visible"][0].tolist() == [[1, 1, 1, 0], [1, 0, 1, 0]]


async def test_a_keypoint_that_the_crop_cuts_off_counts_as_hidden(bench: Bench) -> None:
    await bench.support(support_set(shot(outside=(2,))))
    assert bench.fusion_inputs()["visible"][0, 0].tolist() == [1, 1, 0, 0]


async def test_a_keypoint_that_the_support_says_nothing_of_is_not_located(repository: Path) -> None:
    bench = Bench(repository, image="required", text="unused")
    support, _ = await bench.support(support_set(shot(hidden=(1,))))
    assert support.located.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("image", "text", "shots", "texts", "used"),
    [
        ("required", "required", 1, TEXTS, ("image", "text")),
        ("optional", "optional", 1, TEXTS, ("image", "text")),
        ("optional", "optional", 1, (), ("image",)),
        ("optional", "optional", 0, TEXTS, ("text",)),
        ("required", "optional", 1, (), ("image",)),
        ("required", "unused", 1, TEXTS, ("image",)),
        ("unused", "required", 1, TEXTS, ("text",)),
    ],
)
async def test_a_system_uses_what_it_reads_of_what_the_support_has(
    repository: Path, image: str, text: str, shots: int, texts: tuple[str, ...], used: tuple[str, ...]
) -> None:
    bench = Bench(repository, image=image, text=text)
    support, _ = await bench.support(support_set(*[shot()] * shots, texts=texts))
    assert support.modalities == used
    assert sum(bench.engine.batches("image_backbone")) == ("image" in used)
    assert sum(bench.engine.batches("text_encoder")) == 3 * ("text" in used)
    assert bench.fusion_inputs()["visible"].any() == ("image" in used)
    assert bench.fusion_inputs()["embeddings"].any() == ("text" in used)


@pytest.mark.parametrize(
    ("image", "text", "shots", "texts", "message"),
    [
        ("required", "required", 0, TEXTS, "needs example images and texts; the support has no example images"),
        ("required", "required", 1, (), "needs example images and texts; the support has no texts"),
        ("unused", "required", 1, (), "needs texts; the support has no texts"),
        ("optional", "optional", 0, (), "needs example images or texts; the support has none"),
    ],
)
async def test_a_support_that_lacks_what_a_system_needs_is_refused_before_any_work(
    repository: Path, image: str, text: str, shots: int, texts: tuple[str, ...], message: str
) -> None:
    bench = Bench(repository, image=image, text=text)
    with pytest.raises(MissingModalityError, match=message) as refusal:
        await bench.support(support_set(*[shot()] * shots, texts=texts))
    assert refusal.value.subject == "supports/a"
    assert bench.engine.runs == []


async def test_similarity_maps_and_proposals_come_only_when_asked_for(bench: Bench) -> None:
    support, _ = await bench.support(support_set(shot()))
    queries = await bench.estimator.query_features("flf", [crop(0.25)])
    (bare,) = (await bench.estimator.estimate("flf", support, queries)).estimates
    assert (bare.similarity, bare.proposals) == (None, None)
    answer = await bench.estimator.estimate("flf", support, queries, similarity=True, proposals=True)
    (full,) = answer.estimates
    assert full.similarity is not None
    assert full.similarity.shape == (3, MAPS, MAPS)
    assert full.proposals is not None
    np.testing.assert_allclose(full.proposals, 1 - full.keypoints)


async def test_callers_of_a_new_support_share_its_encoding(bench: Bench) -> None:
    results = await asyncio.gather(*(bench.support(support_set(shot())) for _ in range(4)))
    assert bench.loads == 1
    assert sum(bench.engine.batches("support_fusion")) == 1
    assert {trace.cache_hit for _, trace in results} == {False}


async def test_a_new_support_says_how_many_of_its_texts_were_known(bench: Bench) -> None:
    await bench.support(support_set(shot(), name="supports/a"))
    other = support_set(shot(), texts=("left eye", "back leg", "front leg"), name="supports/b")
    _, trace = await bench.support(other)
    assert (trace.cache_hit, trace.texts, trace.text_cache_hits) == (False, 3, 2)


async def test_a_query_runs_beside_the_encoding_of_its_support_and_shares_its_batch(bench: Bench) -> None:
    with bench.engine.held():
        others = asyncio.create_task(bench.estimator.query_features("flf", [crop(0.1)]))
        await until(lambda: len(bench.engine.runs) == 1)
        both = asyncio.create_task(
            together(bench.support(support_set(shot(0.4))), bench.estimator.query_features("flf", [crop(0.9)]))
        )
        await until(lambda: bench.batcher.queued == 1 + 1 + len(TEXTS))
    (support, _), queries = await both
    answer = await bench.estimator.estimate("flf", support, queries)
    np.testing.assert_allclose(answer.estimates[0].keypoints[0], [0.9, 0.4], atol=2e-3)
    assert bench.engine.batches("image_backbone") == [1, 2]
    await others


async def test_a_request_under_way_finishes_before_the_next_one_begins(repository: Path) -> None:
    bench = Bench(repository, max_batch_size=1)
    support, _ = await bench.support(support_set(shot()))
    bench.engine.runs.clear()

    async def warm_query() -> SupportTokens:
        return support

    async def request() -> None:
        tokens, queries = await together(warm_query(), bench.estimator.query_features("flf", [crop(0.5)]))
        await bench.estimator.estimate("flf", tokens, queries)

    await asyncio.gather(*(request() for _ in range(4)))
    assert [component for component, _ in bench.engine.runs] == ["image_backbone", "pose_decoder"] * 4


async def test_a_deleted_support_is_computed_again(bench: Bench) -> None:
    await bench.support(support_set(shot(), name="supports/a"))
    await bench.support(support_set(shot(), name="supports/b"))
    bench.estimator.forget("/supports/a")
    assert not (await bench.support(support_set(shot(), name="supports/a")))[1].cache_hit
    assert (await bench.support(support_set(shot(), name="supports/b")))[1].cache_hit


async def test_kept_tokens_do_not_keep_the_batch_that_they_came_from(bench: Bench) -> None:
    support, _ = await bench.support(support_set(shot()))
    assert support.tokens.base is None
    assert support.mask.base is None


async def test_a_deadline_ends_the_encoding_of_a_support_and_leaves_no_work_behind(bench: Bench) -> None:
    with bench.engine.held():
        with pytest.raises(DeadlineError):
            await bench.support(support_set(shot()), asyncio.get_running_loop().time() + 0.03)
        await until(lambda: bench.batcher.queued == 0)
    await bench.batcher.close()
    assert bench.engine.batches("support_fusion") == []


async def test_a_query_without_crops_is_answered_with_nothing(bench: Bench) -> None:
    queries = await bench.estimator.query_features("flf", [])
    support, _ = await bench.support(support_set(shot()))
    assert (await bench.estimator.estimate("flf", support, queries)).estimates == ()
