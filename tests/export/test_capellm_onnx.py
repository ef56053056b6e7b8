"""Exported CapeLLM graphs, decoded without torch, say what PyTorch says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from cape.capellm.grammar import AnswerGrammar
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import SupportDefinition
from export.capellm import export_capellm
from service.capellm_decoder import CapeLlmDecoder
from tests.cape.capellm.conftest import CATEGORY, Learnt, learn

Session = Callable[[Mapping[str, Any]], dict[str, Any]]


def session(path: Path) -> Session:
    loaded = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in loaded.get_outputs()]
    return lambda inputs: dict(zip(names, loaded.run(names, dict(inputs)), strict=True))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Learnt, Session, Session]:
    learnt = learn(60)
    vision, decoder = export_capellm(learnt.model, tmp_path_factory.mktemp("capellm"))
    return learnt, session(vision), session(decoder)


def test_image_tokens_are_those_of_pytorch(exported: tuple[Learnt, Session, Session]) -> None:
    learnt, vision, _ = exported
    expected = CapeLlmPredictor(learnt.model, learnt.tokenizer).encode(list(learnt.images)).numpy()
    np.testing.assert_allclose(vision({"image": learnt.images})["image_tokens"], expected, atol=1e-4)


@pytest.mark.parametrize("readout", ["greedy", "expectation"])
def test_answers_are_those_of_pytorch(exported: tuple[Learnt, Session, Session], readout: Any) -> None:
    learnt, vision, run = exported
    predictor = CapeLlmPredictor(learnt.model, learnt.tokenizer)
    prompts = predictor.prompts(SupportDefinition(CATEGORY.name, CATEGORY.keypoints))
    expected = predictor.locate(predictor.encode(list(learnt.images)), prompts, readout)
    decoder = CapeLlmDecoder(run, AnswerGrammar(learnt.tokenizer), layers=2, heads=2, depth=16)
    prefix = decoder.prefix(vision({"image": learnt.images})["image_tokens"], prompts.opening)
    images = np.repeat(np.arange(4), 5).tolist()
    found = decoder.locate(prefix, images, prompts.questions * 4, 64, readout)
    assert found.answers == expected.answers
    np.testing.assert_allclose(found.keypoints, expected.keypoints.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-4)


def test_questions_of_several_images_in_any_order_share_a_batch(exported: tuple[Learnt, Session, Session]) -> None:
    learnt, vision, run = exported
    predictor = CapeLlmPredictor(learnt.model, learnt.tokenizer)
    opening, questions = predictor.prompts(SupportDefinition(CATEGORY.name, CATEGORY.keypoints))
    decoder = CapeLlmDecoder(run, AnswerGrammar(learnt.tokenizer), layers=2, heads=2, depth=16)
    prefix = decoder.prefix(vision({"image": learnt.images})["image_tokens"], opening)
    asked = [(3, 1), (0, 4), (3, 0), (1, 2)]
    together = decoder.locate(prefix, [image for image, _ in asked], [questions[k] for _, k in asked], 64)
    alone = [decoder.locate(prefix, [image], [questions[k]], 64).answers[0] for image, k in asked]
    assert list(together.answers) == alone
