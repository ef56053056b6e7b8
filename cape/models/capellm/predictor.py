"""From words and crops to keypoints: a model, its tokenizer and its way of decoding as one object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cape.capellm.configuration import Readout
from cape.capellm.grammar import AnswerGrammar
from cape.capellm.prompts import Prompts, prompts_of
from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.models.capellm.by_token import locate_by_token
from cape.models.capellm.decoding import Located, locate
from cape.models.capellm.model import CapeLlm
from cape.support import SupportDefinition


class CapeLlmPredictor:
    """Finds the keypoints of a support in crops.

    Args:
        model: moved to the device and to evaluation mode.
        tokenizer: of its vocabulary.
        device: where it runs.
    """

    def __init__(self, model: CapeLlm, tokenizer: CapeLlmTokenizer, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.grammar = AnswerGrammar(tokenizer) if model.coordinates is None else None

    def prompts(self, support: SupportDefinition) -> Prompts:
        """The tokens of a support's words; of its images nothing is used."""
        instruction = self.model.configuration.instruction
        return prompts_of(self.tokenizer, instruction, support.category, support.keypoints)

    @torch.inference_mode()
    def encode(self, crops: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Crops uint8 [S, S, 3] → image tokens [B, N, D]."""
        return self.model.image_tokens(torch.from_numpy(np.stack(crops)).to(self.model.device))

    def locate(self, image_tokens: Tensor, prompts: Prompts, readout: Readout = "greedy") -> Located:
        """Finds all keypoints in B crops; R = B · K answers, those of the first crop first."""
        if self.grammar is None:
            assert self.tokenizer.keypoint is not None, "the tokenizer has been made for the configuration"
            return locate_by_token(self.model, self.tokenizer.keypoint, image_tokens, *prompts)
        return locate(self.model, self.grammar, image_tokens, *prompts, readout=readout)
