"""A CapeLLM small enough to learn four pictures by heart in seconds: real answers to decode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from cape.capellm.configuration import CapeLlmConfiguration
from cape.capellm.instructions import QUESTIONS
from cape.capellm.tokenizer import CapeLlmTokenizer, train_tokenizer
from cape.data.dataset import Category
from cape.models.capellm.checkpoint import untrained_capellm
from cape.models.capellm.model import CapeLlm
from cape.support import KeypointDefinition, SupportDefinition
from cape.training.capellm.batches import Conversation, collate
from cape.training.capellm.conversations import ConversationWriter
from cape.training.capellm.losses import conversation_losses

CATEGORY = Category(
    "cat body",
    "animal",
    (
        KeypointDefinition("nose", "the tip of the nose, between and below the eyes"),
        KeypointDefinition("left eye", "the left one of the two eyes"),
        KeypointDefinition("right eye", "the right one of the two eyes"),
        KeypointDefinition("root of the tail", "where the tail begins, at the end of the back and above the hips"),
        KeypointDefinition("neck"),
    ),
)


def tiny(**instruction: Any) -> CapeLlmConfiguration:
    return CapeLlmConfiguration.model_validate(
        {
            "vision": {
                "image_size": 56,
                "architecture": {
                    "hidden_size": 32,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "patch_size": 14,
                    "image_size": 56,
                },
            },
            "language": {
                "architecture": {
                    "vocab_size": 1700,
                    "hidden_size": 64,
                    "intermediate_size": 128,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "max_position_embeddings": 1024,
                }
            },
            "instruction": instruction,
        }
    )


def tiny_tokenizer(configuration: CapeLlmConfiguration) -> CapeLlmTokenizer:
    texts = [*QUESTIONS, *(f"{k.name} {k.description}" for k in CATEGORY.keypoints)] * 5
    return CapeLlmTokenizer(train_tokenizer(texts, configuration, 1700), configuration.special_tokens)


class Learnt(NamedTuple):
    """A model, and the pictures that it knows: images uint8 [4, 56, 56, 3] and places float32 [4, 5, 2]."""

    model: CapeLlm
    tokenizer: CapeLlmTokenizer
    images: np.ndarray
    places: np.ndarray


def learn(steps: int, **instruction: Any) -> Learnt:
    configuration = tiny(**instruction)
    model, tokenizer = untrained_capellm(configuration), tiny_tokenizer(configuration)
    generator = np.random.default_rng(0)
    # Plain colours: pictures that even a random vision tower tells apart.
    images = np.broadcast_to(generator.integers(0, 256, (4, 1, 1, 3)), (4, 56, 56, 3)).astype(np.uint8)
    places = generator.uniform(0, 1, (4, 5, 2)).astype(np.float32)
    writer = ConversationWriter(configuration.instruction)
    conversations = [
        Conversation(
            images[row],
            tokenizer.tokens(writer.opening(CATEGORY)),
            tuple(tokenizer.tokens(writer.round(CATEGORY, k, places[row, k], generator)) for k in range(5)),
            places[row],
        )
        for row in range(4)
    ]
    batch = collate(
        conversations,
        begin=tokenizer.begin,
        image_tokens=configuration.vision.tokens,
        keypoint=tokenizer.keypoint,
        independent=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        sum(conversation_losses(model, batch)).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return Learnt(model.eval(), tokenizer, images, places)


@pytest.fixture(scope="session")
def learnt() -> Learnt:
    return learn(120)


@pytest.fixture
def cat_support() -> Callable[..., SupportDefinition]:
    return lambda: SupportDefinition(CATEGORY.name, CATEGORY.keypoints)
