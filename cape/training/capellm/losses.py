"""What a CapeLLM is trained by: cross-entropy of what the assistant says, and distance for <KEYPOINT> answers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cape.capellm.grammar import AnswerGrammar
from cape.models.capellm.model import CapeLlm
from cape.training.capellm.batches import IGNORED, ConversationBatch


class CapeLlmLosses(NamedTuple):
    """Loss terms.

    Attributes:
        answer: mean cross-entropy over the tokens that the assistant says.
        distance: mean |error| of coordinates that <KEYPOINT> states give; 0 where answers are text.
    """

    answer: Tensor
    distance: Tensor


class NearNumbers:
    """Targets that forgive: a number token shares its probability with near numbers (not in the paper).

    Cross-entropy alone treats 0.499 for 0.500 like 0.001; a pretrained language model knows better, a small one
    from scratch has no time to find out.

    Args:
        grammar: of the vocabulary; every number must be one token, as in Llama 3's.
        sigma: of the Gaussian, in fractions of the crop.
        vocabulary: V.

    Raises:
        ValueError: numbers are several tokens here.
    """

    def __init__(self, grammar: AnswerGrammar, sigma: float, vocabulary: int) -> None:
        if any(child.children for child in grammar.numbers.children.values()):
            raise ValueError("near_numbers: needs a vocabulary with one token a number")
        self.tokens = torch.from_numpy(grammar.numbers.tokens)
        centres = torch.from_numpy(grammar.numbers.centres).float()
        self.shares = torch.softmax(-((centres[:, None] - centres) ** 2) / (2 * sigma**2), dim=1)
        self.row_of = torch.full((vocabulary,), -1)
        self.row_of[self.tokens] = torch.arange(len(self.tokens))

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over tokens; logits [M, V], targets [M]."""
        logs = logits.float().log_softmax(1)
        own = -logs.gather(1, targets[:, None])[:, 0]
        rows = self.row_of.to(targets.device)[targets]
        number = rows >= 0
        shares = self.shares.to(logs.device)[rows[number]]
        near = -(logs[number][:, self.tokens.to(logs.device)] * shares).sum(1)
        return (own[~number].sum() + near.sum()) / len(targets)


def conversation_losses(model: CapeLlm, batch: ConversationBatch, near: NearNumbers | None = None) -> CapeLlmLosses:
    """Runs a batch through the model.

    Args:
        model: in training or evaluation mode.
        batch: crops, or cached patches, of which the vision tower has no more to do.
        near: softens targets of numbers.
    """
    patches = batch.image
    if patches.dtype == torch.uint8:
        patches = model.vision(patches)
    tokens = model.projection(patches.to(model.projection.linear.weight.dtype))
    embeddings = model.embed(batch.ids, tokens)
    mask = torch.zeros(batch.mask.shape, dtype=embeddings.dtype, device=embeddings.device)
    mask.masked_fill_(~batch.mask, torch.finfo(embeddings.dtype).min)
    states = model.language.base_model(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    counted = batch.targets != IGNORED
    # The vocabulary is wide: logits of the few positions that count, not of all.
    logits, targets = model.language.get_output_embeddings()(states[counted]), batch.targets[counted]
    answer = near.cross_entropy(logits, targets) if near is not None else F.cross_entropy(logits.float(), targets)
    if model.coordinates is None:
        return CapeLlmLosses(answer, answer.new_zeros(()))
    distance = (model.coordinates(states[batch.spots]).float() - batch.places).abs().mean()
    return CapeLlmLosses(answer, distance)
