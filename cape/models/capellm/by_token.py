"""Keypoints of models that answer with a token <KEYPOINT> (Appendix B.2): nothing is decided, one state is read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cape.models.capellm.decoding import ROWS_AT_ONCE, Batch, DecodingCost, Located, Prefix
from cape.models.capellm.model import CapeLlm


@torch.inference_mode()
def locate_by_token(
    model: CapeLlm,
    token: int,
    image_tokens: Tensor,
    opening: Sequence[int],
    questions: Sequence[Sequence[int]],
    *,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Located:
    """Finds keypoints of B images; arguments and order as for `decoding.locate`.

    The score of a keypoint is the probability of <KEYPOINT> after its question.

    Args:
        model: with token answers, in evaluation mode.
        token: id of <KEYPOINT>.
    """
    assert model.coordinates is not None, "the configuration asks for token answers"
    cost = DecodingCost()
    prefix = Prefix(model, image_tokens, opening, cost)
    pairs = [(image, question) for image in range(len(image_tokens)) for question in questions]
    keypoints, scores = [], []
    for start in range(0, len(pairs), rows_at_once):
        chosen = pairs[start : start + rows_at_once]
        batch = Batch(prefix, [image for image, _ in chosen])
        logits, _ = batch.run([question for _, question in chosen])
        _, states = batch.run([[token]] * len(chosen))
        scores.append(logits.float().softmax(1)[:, token])
        keypoints.append(model.coordinates(states).float())
        cost.prompt_tokens += sum(len(question) for _, question in chosen)
        cost.answer_tokens += len(chosen)
        cost.steps += 2
    return Located(torch.cat(keypoints).cpu(), torch.cat(scores).cpu(), ((token,),) * len(pairs), cost)
