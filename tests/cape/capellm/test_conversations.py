"""What is learnt from: groups, rounds, and what the loss counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cape.capellm.configuration import InstructionConfiguration
from cape.capellm.grammar import AnswerGrammar
from cape.models.capellm.checkpoint import untrained_capellm
from cape.models.capellm.model import CapeLlm
from cape.training.capellm.batches import IGNORED, Conversation, ConversationBatch, collate
from cape.training.capellm.conversations import ConversationWriter, Task, groups
from cape.training.capellm.losses import NearNumbers, conversation_losses
from tests.cape.capellm.conftest import CATEGORY, Learnt, tiny

PLACE = np.array([0.123, 0.456], np.float32)


def test_no_keypoint_is_left_out_and_the_last_group_is_filled_up() -> None:
    generator = np.random.default_rng(0)
    for count, size, expected in ((15, 5, 3), (5, 4, 2), (3, 4, 1), (1, 4, 1)):
        visible = [2 * index for index in range(count)]
        found = groups(visible, size, generator)
        assert [len(group) for group in found] == [size] * expected
        assert {index for group in found for index in group} == set(visible)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            "direct_qa",
            "User: Which keypoint of this object is at [0.123,0.456]?\nAssistant:| left eye</s>|",
        ),
        ("keypoints", "left eye of this object in this image? Please provide its coordinates."),
    ],
)
def test_a_round_of_each_task(task: Task, expected: str) -> None:
    writer = ConversationWriter(InstructionConfiguration(), task)
    segments = writer.round(CATEGORY, 1, PLACE, np.random.default_rng(0))
    text = "|".join(segment.text + "</s>" * segment.spoken for segment in segments) + "|"
    assert expected in text
    assert segments[-1].spoken


def test_step_by_step_pretraining_offers_the_right_answer_among_others() -> None:
    writer = ConversationWriter(InstructionConfiguration(), "step_by_step_qa")
    assert writer.opening(CATEGORY)[-1] == (" cat body", True)
    segments = writer.round(CATEGORY, 1, PLACE, np.random.default_rng(0))
    offered = segments[2].text.split("]: ")[1].split("?")[0].split(", ")
    assert "left eye" in offered and len(set(offered)) == 4
    assert segments[-1].text == " left eye"


def test_diverse_questions_and_paraphrases_vary_the_words() -> None:
    category = CATEGORY.__class__("c", "s", CATEGORY.keypoints[:1], (), (("the snout",),))
    writer = ConversationWriter(InstructionConfiguration(diverse_questions=True), "keypoints", paraphrase=0.5)
    generator = np.random.default_rng(0)
    said = {writer.round(category, 0, PLACE, generator)[0].text for _ in range(600)}
    assert len(said) == 50  # 25 questions, two references


def conversation(learnt: Learnt, row: int, keypoints: list[int]) -> Conversation:
    writer, tokens = ConversationWriter(InstructionConfiguration(outline=True)), learnt.tokenizer.tokens
    generator = np.random.default_rng(0)
    return Conversation(
        learnt.images[row],
        tokens(writer.opening(CATEGORY)),
        tuple(tokens(writer.round(CATEGORY, k, learnt.places[row, k], generator)) for k in keypoints),
        learnt.places[row, keypoints],
    )


def batch_of(learnt: Learnt, *rows: list[int], independent: bool) -> ConversationBatch:
    conversations = [conversation(learnt, row, keypoints) for row, keypoints in enumerate(rows)]
    return collate(conversations, begin=learnt.tokenizer.begin, image_tokens=16, independent=independent)


def test_the_loss_counts_what_the_assistant_says_alone(learnt: Learnt) -> None:
    batch = batch_of(learnt, [0, 1], [2], independent=False)
    for row, keypoints in enumerate(([0, 1], [2])):
        told = batch.targets[row][batch.targets[row] != IGNORED].tolist()
        x, y = learnt.places[row, keypoints[0]]
        spoken = (*learnt.tokenizer.encode(f" [{x:.3f},{y:.3f}]"), learnt.tokenizer.end)
        assert tuple(told[: len(spoken)]) == spoken
        assert len(told) == 10 * len(keypoints)


def answer_logits(model: CapeLlm, batch: ConversationBatch) -> torch.Tensor:
    tokens = model.image_tokens(batch.image)
    embeddings = model.embed(batch.ids, tokens)
    mask = torch.zeros(batch.mask.shape).masked_fill_(~batch.mask, torch.finfo(torch.float32).min)
    return model.read(embeddings, mask, batch.positions, None).logits[batch.targets != IGNORED]


def test_independent_rounds_are_the_rounds_asked_one_by_one(learnt: Learnt) -> None:
    model = untrained_capellm(tiny(), seed=1)
    with torch.inference_mode():
        together = answer_logits(model, batch_of(learnt, [0, 3, 4], independent=True))
        alone = [answer_logits(model, batch_of(learnt, [k], independent=True)) for k in (0, 3, 4)]
        seeing = answer_logits(model, batch_of(learnt, [0, 3, 4], independent=False))
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    torch.testing.assert_close(seeing[:10], together[:10], rtol=0, atol=1e-5)
    assert (seeing[10:] - together[10:]).abs().max() > 1e-3


def test_padding_changes_nothing(learnt: Learnt) -> None:
    model = untrained_capellm(tiny(), seed=1)
    with torch.inference_mode():
        padded = answer_logits(model, batch_of(learnt, [2], [0, 1, 2, 3], independent=False))
        alone = answer_logits(model, batch_of(learnt, [2], independent=False))
    torch.testing.assert_close(padded[:10], alone, rtol=0, atol=1e-5)


def test_near_numbers_forgive_a_near_miss(learnt: Learnt) -> None:
    near = NearNumbers(AnswerGrammar(learnt.tokenizer), 0.02, 1700)
    target = torch.tensor(learnt.tokenizer.encode("500"))

    def loss(said: str) -> float:
        logits = torch.zeros(1, 1700)
        logits[0, learnt.tokenizer.encode(said)[0]] = 8.0
        return float(near.cross_entropy(logits, target))

    assert loss("500") < loss("510") < loss("540") <= loss("700")
    comma = torch.tensor(learnt.tokenizer.encode(","))
    logits = torch.randn(1, 1700)
    assert float(near.cross_entropy(logits, comma)) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, comma))
    )


def test_the_loss_of_a_model_that_knows_is_small(learnt: Learnt) -> None:
    writer, tokens = ConversationWriter(InstructionConfiguration()), learnt.tokenizer.tokens
    known = Conversation(
        learnt.images[0],
        tokens(()),
        tuple(tokens(writer.round(CATEGORY, k, learnt.places[0, k], np.random.default_rng(0))) for k in range(5)),
        learnt.places[0],
    )
    batch = collate([known], begin=learnt.tokenizer.begin, image_tokens=16, independent=True)
    with torch.inference_mode():
        assert float(conversation_losses(learnt.model, batch).answer) < 0.1
        assert float(conversation_losses(untrained_capellm(tiny()), batch).answer) > 5
