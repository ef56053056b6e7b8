"""The whole model: image tokens before text tokens, and a language model that answers (CapeLLM, section 3.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from cape.capellm.configuration import CapeLlmConfiguration, LanguageConfiguration
from cape.models.capellm.vision import ImageProjection, VisionTower


class LanguageOutput(NamedTuple):
    """Outputs of the language model for a piece of a sequence.

    Attributes:
        logits: [R, L, V], or of the last position alone, [R, 1, V].
        states: [R, L, D], the final hidden states; the last position alone likewise.
    """

    logits: Tensor
    states: Tensor


class CoordinateDecoder(nn.Module):
    """Reads coordinates off the state of a <KEYPOINT> token (Appendix B.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2))

    def forward(self, states: Tensor) -> Tensor:
        """States [..., D] → x and y, fractions of the crop, [..., 2]."""
        return self.layers(states).sigmoid()


class CapeLlm(nn.Module):
    """Vision encoder, projection, language model and, where the answer is a token, its coordinate decoder."""

    def __init__(self, configuration: CapeLlmConfiguration) -> None:
        super().__init__()
        self.configuration = configuration
        width = configuration.language.width
        self.vision = VisionTower(configuration.vision)
        self.projection = ImageProjection(configuration.vision, width)
        # Any: transformers does not type the interface of its models.
        self.language: Any = _language_model(configuration.language)
        self.coordinates = CoordinateDecoder(width) if configuration.instruction.answer == "token" else None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.projection.linear.weight.device

    def image_tokens(self, image: Tensor) -> Tensor:
        """Crops uint8 [B, S, S, 3] → image tokens [B, N, D]."""
        return self.projection(self.vision(image))

    def embed(self, ids: Tensor, image_tokens: Tensor | None = None) -> Tensor:
        """Token embeddings [B, L, D]; image tokens follow the first one, the begin token (equation 3).

        Args:
            ids: int64 [B, T].
            image_tokens: [B, N, D], for the beginning of a sequence; L is then T + N.
        """
        embedded = self.language.get_input_embeddings()(ids)
        if image_tokens is None:
            return embedded
        return torch.cat((embedded[:, :1], image_tokens.to(embedded.dtype), embedded[:, 1:]), dim=1)

    def read(
        self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache | None, *, last: bool = False
    ) -> LanguageOutput:
        """Runs the language model over a piece of a sequence (equations 4 and 5).

        Args:
            embeddings: [R, L, D].
            mask: [R, P + L], 1 where a position of the past or of this piece counts; or additive, [R, 1, L, P + L].
            positions: int64 [R, L].
            cache: keys and values of the past P positions, extended in place; None: there is no past, and none is
                kept.
            last: of the last position alone.
        """
        output = self.language.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=cache is not None,
        )
        states = output.last_hidden_state
        if last:
            states = states[:, -1:]
        return LanguageOutput(self.language.get_output_embeddings()(states), states)


def _language_model(configuration: LanguageConfiguration) -> nn.Module:
    settings = AutoConfig.for_model(configuration.kind, **configuration.architecture)
    return AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
