"""Plain decoding as in the public CapeLLM code: one prompt per keypoint, greedy, at most 13 new tokens.

Nothing is shared or forced. It is the reference for `decoding`, and shows a model's unconstrained answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cape.capellm.coordinates import parse_coordinates
from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.models.capellm.decoding import DecodingCost, Located
from cape.models.capellm.model import CapeLlm

NEW_TOKENS = 13
"""As in the public code: enough for any spelling of two coordinates and the end token."""


@torch.inference_mode()
def locate_plainly(
    model: CapeLlm,
    tokenizer: CapeLlmTokenizer,
    image_tokens: Tensor,
    opening: Sequence[int],
    questions: Sequence[Sequence[int]],
    *,
    new_tokens: int = NEW_TOKENS,
) -> Located:
    """Finds keypoints of B images one after the other; arguments as for `decoding.locate`, and so the order.

    An answer ends after `new_tokens` at the latest. One that is not well-formed gives NaN, and the mean probability
    of all its tokens as a score.
    """
    cost = DecodingCost()
    keypoints, scores, answers = [], [], []
    for image in image_tokens:
        for question in questions:
            ids = torch.tensor([[*opening, *question]], device=model.device)
            embeddings = model.embed(ids, image[None])
            generated = model.language.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=model.device),
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=tokenizer.end,
                pad_token_id=tokenizer.end,
                output_logits=True,
                return_dict_in_generate=True,
            )
            said = generated.sequences[0].tolist()
            top = [float(step[0].float().softmax(0).max()) for step in generated.logits]
            cost.prompt_tokens += embeddings.shape[1]
            cost.answer_tokens += len(said) - 1  # the last one is said and not read
            cost.steps += len(said)
            answer = tuple(said[:-1] if said[-1] == tokenizer.end else said)
            place = parse_coordinates(tokenizer.decode(answer))
            keypoints.append(place or (float("nan"), float("nan")))
            scores.append(_score(tokenizer, answer, top, well_formed=place is not None))
            answers.append(answer)
    return Located(torch.tensor(keypoints).reshape(-1, 2), torch.tensor(scores), tuple(answers), cost)


def _score(tokenizer: CapeLlmTokenizer, answer: Sequence[int], top: Sequence[float], *, well_formed: bool) -> float:
    """Mean of the top probabilities of the digits behind both points."""
    chosen = list(top)
    if well_formed:
        behind, chosen = False, []
        for token, probability in zip(answer, top, strict=False):
            text = tokenizer.decode([token])
            if behind and text.isdigit():
                chosen.append(probability)
            behind = text.endswith(".") or (behind and text.isdigit())
    return sum(chosen) / len(chosen)
