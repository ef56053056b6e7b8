"""Supports with images, texts, or both, against real exports of systems that treat them differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cape.checkpoints import Checkpoint, untrained
from cape.client import Client, FailedPreconditionError, KeypointDefinition, SupportDefinition, SupportExample
from cape.predictor import Predictor
from tests.conftest import tiny_configuration
from tests.service.conftest import Serving
from tests.service.live_server import LiveServer, settings_for

NAMES = ("left eye", "right eye", "nose", "chin", "left ear")
GENERATOR = np.random.default_rng(5)
QUERY = GENERATOR.integers(0, 256, (120, 160, 3), dtype=np.uint8)


def example(hidden: tuple[int, ...] = ()) -> SupportExample:
    image = GENERATOR.integers(0, 256, (100, 100, 3), dtype=np.uint8)
    visible = np.array([index not in hidden for index in range(len(NAMES))])
    keypoints = GENERATOR.uniform(10, 90, (len(NAMES), 2)).astype(np.float32)
    return SupportExample(image=image, keypoints=keypoints, visible=visible)


def support(*examples: SupportExample, modalities: tuple[str, ...] = ()) -> SupportDefinition:
    return SupportDefinition(
        category="face",
        keypoints=tuple(KeypointDefinition(name) for name in NAMES),
        skeleton=((0, 2), (1, 2), (2, 3)),
        examples=examples,
        modalities=modalities,
    )


@pytest.fixture(scope="module")
def dlf(triton_repository: Path, serving: Serving) -> Iterator[Client]:
    settings = serving(triton_repository).model_copy(update={"default_system": "dlf"})
    with LiveServer(settings) as live, Client(live.server.target) as client:
        yield client


@pytest.fixture(scope="module")
def graphcape(tiny_export: Callable[..., Path]) -> Iterator[Client]:
    with LiveServer(settings_for(tiny_export("graphcape", text=None))) as live, Client(live.server.target) as client:
        yield client


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (support(example()), ("image", "text")),
        (support(), ("text",)),
        (support(example(), modalities=("image",)), ("image",)),
        (support(example(), modalities=("text",)), ("text",)),
        (support(example(), example(), example()), ("image", "text")),
    ],
    ids=["both", "no images", "images alone", "texts alone", "three shots"],
)
def test_dlf_uses_the_pathways_that_it_has_and_answers_as_pytorch(
    dlf: Client, given: SupportDefinition, used: tuple[str, ...], tokenizer_file: Path
) -> None:
    answer = dlf.estimate(QUERY, given)
    assert tuple(sorted(answer.provenance.modalities)) == used
    model = untrained(tiny_configuration(system="dlf"), seed=7)
    (expected,) = Predictor(Checkpoint(model, tokenizer_file, Path("tiny"), "0" * 64)).estimate(QUERY, given)
    np.testing.assert_allclose(answer.instances[0].keypoints, expected.keypoints, atol=0.02)
    np.testing.assert_allclose(answer.instances[0].scores, expected.scores, atol=1e-4)


def test_a_keypoint_hidden_in_one_shot_is_located_from_another(graphcape: Client) -> None:
    answer = graphcape.estimate(QUERY, support(example(hidden=(1, 4)), example(hidden=(4,))))
    assert answer.instances[0].located.tolist() == [True, True, True, True, False]
    assert answer.instances[0].scores[4] == 0
    assert answer.instances[0].keypoints[4].tolist() == [0, 0]


def test_dlf_locates_by_text_what_every_image_hides(dlf: Client) -> None:
    answer = dlf.estimate(QUERY, support(example(hidden=(2,))))
    assert answer.instances[0].located.all()
    assert answer.instances[0].scores[2] > 0


def test_what_is_missing_is_named(graphcape: Client) -> None:
    with pytest.raises(FailedPreconditionError, match="graphcape needs example images"):
        graphcape.estimate(QUERY, support())
    answer = graphcape.estimate(QUERY, support(example()))
    assert tuple(answer.provenance.modalities) == ("image",)


def test_flf_needs_both(tiny_repository: Path) -> None:
    with LiveServer(settings_for(tiny_repository)) as live, Client(live.server.target) as client:
        with pytest.raises(FailedPreconditionError, match="flf needs example images and texts"):
            client.estimate(QUERY, support())
        with pytest.raises(FailedPreconditionError, match="no texts"):
            client.estimate(QUERY, support(example(), modalities=("image",)))
