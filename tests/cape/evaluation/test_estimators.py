"""The three sources of predictions agree with each other, pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.exported import ExportedEstimator
from cape.annotations import read_support
from cape.checkpoints import Checkpoint, load_checkpoint, untrained
from cape.data.dataset import AnnotatedObject, Category
from cape.data.pairs import draw_pairs
from cape.evaluation.checkpoint import CheckpointEstimator
from cape.evaluation.estimator import EstimationError, Estimator, QueryObject
from cape.evaluation.run import EvaluationRun, run_pairs
from cape.evaluation.service import BARE_PIXELS, ServiceEstimator
from cape.evaluation.supports import support_definition
from cape.evaluation.variations import variation
from cape.images import read_image
from cape.modalities import MissingModalityError
from cape.support import Box, SupportDefinition
from tests.conftest import tiny_configuration
from tests.service.live_server import LiveServer, settings_for

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


class Faces:
    """The annotated photographs of two faces, and a part of one of them, as a data set."""

    name = "example faces"

    def __init__(self) -> None:
        supports = [read_support(EXAMPLES / f"{name}.yaml") for name in ("astronaut", "grace_hopper")]
        shared = set(supports[0].names) & set(supports[1].names)
        names = [name for name in supports[0].names if name in shared]
        keypoints = tuple(keypoint for keypoint in supports[0].keypoints if keypoint.name in shared)
        self.categories = [Category("face", "faces", keypoints, tuple((i, i + 1) for i in range(len(names) - 1)))]
        self._objects = []
        for support in supports:
            (example,) = support.examples
            order = [support.names.index(name) for name in names]
            image = read_image(example.image)
            box = example.box or Box(0, 0, image.shape[1], image.shape[0])
            self._objects.append(AnnotatedObject(image, box, example.keypoints[order], example.visible[order]))
        first = self._objects[0]
        self._objects.append(AnnotatedObject(first.image, Box(100.5, 20.25, 240, 200), first.keypoints, first.visible))

    def objects(self, category: int) -> list[int]:
        return [0, 1, 2]

    def load(self, object_id: int) -> AnnotatedObject:
        return self._objects[object_id]


@pytest.fixture(scope="module")
def faces() -> Faces:
    return Faces()


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[LiveServer]:
    with LiveServer(settings_for(tiny_repository)) as live:
        yield live


@pytest.fixture(scope="module")
def sources(tiny_checkpoint: Path, tiny_repository: Path, server: LiveServer) -> dict[str, Callable[[], Estimator]]:
    return {
        "checkpoint": lambda: CheckpointEstimator(load_checkpoint(tiny_checkpoint)),
        "repository": lambda: ExportedEstimator(tiny_repository, threads=1),
        "service": lambda: ServiceEstimator(server.server.target),
    }


def run(faces: Faces, source: Callable[[], Estimator], shots: int = 1) -> EvaluationRun:
    with closing(source()) as estimator:
        return run_pairs(faces, draw_pairs(faces, shots=shots), estimator)


@pytest.mark.parametrize("shots", [1, 2])
def test_all_sources_find_the_same_places_and_scores(faces, sources, shots):
    expected = run(faces, sources["checkpoint"], shots)
    assert expected.modalities == ("image", "text")
    for name in ("repository", "service"):
        actual = run(faces, sources[name], shots)
        assert actual.modalities == expected.modalities
        assert len(actual.results) == len(expected.results) > 0
        for one, other in zip(actual.results, expected.results, strict=True):
            assert (one.query, one.supports) == (other.query, other.supports)
            np.testing.assert_array_equal(one.pose.located, other.pose.located)
            located = one.pose.located
            np.testing.assert_allclose(one.pose.keypoints[located], other.pose.keypoints[located], atol=2e-3)
            np.testing.assert_allclose(one.pose.scores[located], other.pose.scores[located], atol=1e-5)


@pytest.mark.parametrize("name", ["checkpoint", "repository", "service"])
def test_a_source_that_is_asked_again_answers_the_same(faces, sources, name):
    first, second = run(faces, sources[name]), run(faces, sources[name])
    for one, other in zip(first.results, second.results, strict=True):
        np.testing.assert_allclose(one.pose.keypoints, other.pose.keypoints, atol=1e-3)


@pytest.mark.parametrize("name", ["checkpoint", "repository", "service"])
@pytest.mark.parametrize("missing", ["no_image", "no_texts"])
def test_every_source_says_what_a_model_cannot_do_without(faces, sources, name, missing):
    with closing(sources[name]()) as estimator, pytest.raises(MissingModalityError, match="flf needs"):
        run_pairs(faces, draw_pairs(faces), estimator, variation=variation(missing, 0.5))


@pytest.mark.parametrize("name", ["checkpoint", "repository", "service"])
def test_every_source_says_what_it_is(sources, name):
    with closing(sources[name]()) as estimator:
        assert "flf" in estimator.name and "swinv2" in estimator.name and "float32" in estimator.name


def test_one_of_two_pathways_is_enough_for_decision_level_fusion(faces, tokenizer_file):
    model = untrained(tiny_configuration(system="dlf"), seed=1)
    checkpoint = Checkpoint(model, tokenizer_file, Path("dlf"), "0" * 64)
    found = run_pairs(faces, draw_pairs(faces), CheckpointEstimator(checkpoint), variation=variation("no_image", 0.5))
    assert found.modalities == ("text",)


def test_the_service_is_left_without_our_supports_but_with_those_of_others(faces, server, sources):
    category = faces.categories[0]
    support = support_definition(category, [faces.load(0)])
    query = faces.load(1)
    with closing(ServiceEstimator(server.server.target)) as estimator:
        estimator.estimate(support, [QueryObject(1, query.image, query.box)])
        client = estimator._client
        assert list(client.list_supports()) == []
        name = client.create_support(support).name
        estimator.estimate(support, [QueryObject(1, query.image, query.box)])
        assert [found.name for found in client.list_supports()] == [name]
        client.delete_support(name)


def test_photographs_too_large_to_send_bare_lose_nothing(faces, sources):
    generator = np.random.default_rng(0)
    image = np.repeat(np.repeat(generator.integers(0, 256, (128, 160, 3), dtype=np.uint8), 10, 0), 10, 1)
    assert image.nbytes > BARE_PIXELS
    support = support_definition(faces.categories[0], [faces.load(0)])
    query = QueryObject(9, image, Box(200, 100, 900, 700))
    answers = []
    for name in ("checkpoint", "service"):
        with closing(sources[name]()) as estimator:
            answers.append(estimator.estimate(support, [query]).poses[0].keypoints)
    np.testing.assert_allclose(answers[0], answers[1], atol=5e-3)


def test_a_support_that_is_refused_is_an_estimation_error(faces, sources):
    support = support_definition(faces.categories[0], [faces.load(0)])
    broken = SupportDefinition(support.category, (), (), support.examples)
    query = QueryObject(1, faces.load(1).image, faces.load(1).box)
    for source in sources.values():
        with closing(source()) as estimator, pytest.raises(EstimationError, match="keypoints"):
            estimator.estimate(broken, [query])


def test_a_repository_that_is_none_and_a_model_that_is_not_there_are_named(tmp_path, server, tiny_repository):
    with pytest.raises(EstimationError, match="no such folder"):
        ExportedEstimator(tmp_path / "none")
    with pytest.raises(EstimationError, match="there is no system 'dlf'"):
        ExportedEstimator(tiny_repository, system="dlf")
    with pytest.raises(EstimationError, match="there is no model 'models/dlf'; it has models/flf"):
        ServiceEstimator(server.server.target, model="models/dlf")
