"""Keypoints as one batch over a shared prefix are the keypoints of the plain way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cape.capellm.grammar import AnswerGrammar, NumberNode
from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.models.capellm.checkpoint import untrained_capellm
from cape.models.capellm.decoding import locate
from cape.models.capellm.model import CapeLlm
from cape.models.capellm.plain import locate_plainly
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import SupportDefinition
from tests.cape.capellm.conftest import Learnt, learn, tiny
from tests.cape.capellm.test_words import digit_tokenizer


def test_constrained_answers_are_those_of_plain_greedy_decoding(
    learnt: Learnt, cat_support: Callable[[], SupportDefinition]
) -> None:
    predictor = CapeLlmPredictor(learnt.model, learnt.tokenizer)
    prompts = predictor.prompts(cat_support())
    images = predictor.encode(list(learnt.images))
    shared = predictor.locate(images, prompts)
    plain = locate_plainly(learnt.model, learnt.tokenizer, images, *prompts)
    assert not plain.keypoints.isnan().any(), "the model has learnt to speak"
    assert shared.answers == plain.answers
    assert torch.equal(shared.keypoints, plain.keypoints)
    torch.testing.assert_close(shared.scores, plain.scores, rtol=0, atol=1e-4)
    # It says what it has learnt: three decimals of the truth.
    np.testing.assert_allclose(shared.keypoints.numpy().reshape(4, 5, 2), learnt.places, atol=6e-4)


def test_a_keypoint_costs_its_question_and_one_step(
    learnt: Learnt, cat_support: Callable[[], SupportDefinition]
) -> None:
    predictor = CapeLlmPredictor(learnt.model, learnt.tokenizer)
    prompts = predictor.prompts(cat_support())
    images = predictor.encode(list(learnt.images[:1]))
    shared = predictor.locate(images, prompts).cost
    plain = locate_plainly(learnt.model, learnt.tokenizer, images, *prompts).cost
    questions = sum(map(len, prompts.questions))
    assert shared.steps == 3  # the image, the questions, the second coordinate
    assert shared.prompt_tokens == 17 + questions
    assert plain.prompt_tokens == 5 * 17 + questions
    assert plain.steps == 5 * 10  # nine tokens and the end


def test_batches_of_any_size_answer_the_same(learnt: Learnt, cat_support: Callable[[], SupportDefinition]) -> None:
    predictor = CapeLlmPredictor(learnt.model, learnt.tokenizer)
    images, prompts = predictor.encode(list(learnt.images)), predictor.prompts(cat_support())
    assert predictor.grammar is not None
    whole = predictor.locate(images, prompts)
    for rows in (1, 3, 7):
        parts = locate(learnt.model, predictor.grammar, images, *prompts, rows_at_once=rows)
        assert parts.answers == whole.answers


def reference(
    model: CapeLlm, tokenizer: CapeLlmTokenizer, image: torch.Tensor, opening: list[int], question: list[int]
) -> tuple[list[int], list[float]]:
    """One keypoint, without cache or batch: the whole sequence again for every digit. Answer and expectations."""
    grammar = AnswerGrammar(tokenizer)

    def probabilities(said: list[int]) -> torch.Tensor:
        embeddings = model.embed(torch.tensor([[*opening, *question, *said]]), image[None])
        positions = torch.arange(embeddings.shape[1])[None]
        return model.read(embeddings, torch.ones_like(positions), positions, None, last=True).logits[0, -1].softmax(0)

    def expectation(said: list[int], node: NumberNode) -> tuple[float, list[int]]:
        if not node.children:
            return node.centre, []
        allowed = list(node.children)
        shares = probabilities(said)[allowed]
        shares = (shares / shares.sum()).tolist()
        best = int(np.argmax(shares))
        rest = sum(
            s * node.children[t].centre for k, (s, t) in enumerate(zip(shares, allowed, strict=True)) if k != best
        )
        mean, digits = expectation([*said, allowed[best]], node.children[allowed[best]])
        return rest + shares[best] * mean, [allowed[best], *digits]

    with torch.inference_mode():
        x, first = expectation(list(grammar.head), grammar.numbers)
        y, second = expectation([*grammar.head, *first, *grammar.middle], grammar.numbers)
    return [*grammar.head, *first, *grammar.middle, *second, *grammar.tail], [x, y]


@pytest.mark.parametrize("vocabulary", ["numbers", "digits"])
def test_any_model_and_vocabulary_answers_well_formed(vocabulary: str, learnt: Learnt) -> None:
    """A random model, that would babble if it were let."""
    tokenizer = learnt.tokenizer if vocabulary == "numbers" else digit_tokenizer()
    model = untrained_capellm(tiny(), seed=3).double()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 16, 64, generator=generator, dtype=torch.float64)
    opening = [tokenizer.begin, *tokenizer.encode("x")]
    questions = [list(tokenizer.encode(text)) for text in ("nose", "where is the nose of it", "the")]
    grammar = AnswerGrammar(tokenizer)
    greedy = locate(model, grammar, images, opening, questions)
    expected = locate(model, grammar, images, opening, questions, readout="expectation")
    row = 0
    for image in images:
        for question in questions:
            answer, mean = reference(model, tokenizer, image, opening, question)
            assert list(greedy.answers[row]) == list(expected.answers[row]) == answer
            assert expected.keypoints[row].tolist() == pytest.approx(mean, abs=1e-6)
            text = f" [{greedy.keypoints[row, 0]:.3f},{greedy.keypoints[row, 1]:.3f}]"
            assert tokenizer.decode(answer) == text
            row += 1
    assert not torch.allclose(greedy.keypoints, expected.keypoints)
    assert greedy.cost.steps == (3 if vocabulary == "numbers" else 7)


def test_a_babbling_model_is_heard_as_such_in_the_plain_way(learnt: Learnt) -> None:
    model = untrained_capellm(tiny(), seed=3)
    images = torch.zeros(1, 16, 64)
    located = locate_plainly(model, learnt.tokenizer, images, [learnt.tokenizer.begin], [learnt.tokenizer.encode("x")])
    assert located.keypoints.isnan().all()
    assert located.cost.steps == 13


def test_a_model_can_answer_by_a_token(cat_support: Callable[[], SupportDefinition]) -> None:
    token = learn(140, answer="token", descriptions=False)
    predictor = CapeLlmPredictor(token.model, token.tokenizer)
    located = predictor.locate(predictor.encode(list(token.images)), predictor.prompts(cat_support()))
    assert np.abs(located.keypoints.numpy().reshape(4, 5, 2) - token.places).mean() < 0.1
    assert (located.scores > 0.9).all()
    assert located.cost.steps == 3
