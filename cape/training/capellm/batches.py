"""Conversations as tensors: what the language model reads, what it may look at, and what its loss counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cape.capellm.tokenizer import Tokens

IGNORED = -100
"""Target of positions that the loss leaves out."""


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """What is said about one image.

    Attributes:
        image: crop uint8 [S, S, 3], or cached patches float16 [C, G, G].
        opening: what all rounds share, without begin token.
        rounds: question and answer of each keypoint.
        places: float32 [K, 2], where each round's keypoint is, fractions of the crop.
    """

    image: npt.NDArray[Any]
    opening: Tokens
    rounds: tuple[Tokens, ...]
    places: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ConversationBatch:
    """B conversations, padded on the right; L counts begin token, N image tokens and text.

    Attributes:
        image: [B, …], as in `Conversation`.
        ids: int64 [B, T], begin token and text; T = L − N.
        targets: int64 [B, L], the token that follows each position where the assistant says it, else `IGNORED`.
        positions: int64 [B, L].
        mask: bool [B, 1, L, L], what each position may look at.
        spots: bool [B, L], positions of <KEYPOINT> tokens; all False where answers are text.
        places: float32 [M, 2], coordinates of those, in order.
    """

    image: Tensor
    ids: Tensor
    targets: Tensor
    positions: Tensor
    mask: Tensor
    spots: Tensor
    places: Tensor

    def to(self, device: torch.device) -> ConversationBatch:
        """The batch on a device."""
        return ConversationBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def collate(
    conversations: Sequence[Conversation],
    *,
    begin: int,
    image_tokens: int,
    keypoint: int | None = None,
    independent: bool = False,
) -> ConversationBatch:
    """Stacks conversations.

    Args:
        conversations: at least one.
        begin: id of the begin token.
        image_tokens: N.
        keypoint: id of <KEYPOINT>, where answers are tokens.
        independent: no round sees another and each counts its positions from the opening, as rounds are asked when
            served; one image then pays for any number of them. As published, later rounds see earlier ones.
    """
    lengths = [1 + len(c.opening.ids) + sum(len(r.ids) for r in c.rounds) for c in conversations]
    rows, text, head = len(conversations), max(lengths), 1 + image_tokens
    total = text + image_tokens
    ids = torch.zeros(rows, text, dtype=torch.long)
    targets = torch.full((rows, total), IGNORED)
    positions = torch.zeros(rows, total, dtype=torch.long)
    block = torch.full((rows, total), -1)  # −1: padding; 0: shared; then a number for each round
    for row, conversation in enumerate(conversations):
        whole = Tokens.joined((Tokens((begin,), (False,)), conversation.opening, *conversation.rounds))
        ids[row, : len(whole.ids)] = torch.tensor(whole.ids)
        # Position p predicts the token at p + 1; text starts behind the image.
        for place in range(1, len(whole.ids)):
            if whole.spoken[place]:
                targets[row, image_tokens + place - 1] = whole.ids[place]
        shared = head + len(conversation.opening.ids)
        positions[row, :shared] = torch.arange(shared)
        block[row, :shared] = 0
        start = shared
        for number, one in enumerate(conversation.rounds, 1):
            stop = start + len(one.ids)
            positions[row, start:stop] = torch.arange(stop - start) + (shared if independent else start)
            block[row, start:stop] = number
            start = stop
    seen = torch.ones(total, total, dtype=torch.bool).tril() & (block[:, None, :] >= 0)
    if independent:
        seen &= (block[:, None, :] == 0) | (block[:, None, :] == block[:, :, None])
    seen |= torch.eye(total, dtype=torch.bool)  # padding looks at itself: a row of nothing has no softmax
    spots = torch.zeros(rows, total, dtype=torch.bool)
    if keypoint is not None:
        spots[:, image_tokens:] = ids == keypoint
    return ConversationBatch(
        image=torch.from_numpy(np.stack([c.image for c in conversations])),
        ids=ids,
        targets=targets,
        positions=positions,
        mask=seen[:, None],
        spots=spots,
        places=torch.from_numpy(np.concatenate([c.places for c in conversations])),
    )
