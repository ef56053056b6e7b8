"""Keypoints from a CapeLLM whose language model a vLLM server runs: prompts are embedded here and answered there.

After vLLM's documentation, 'Prompt Embedding Inputs' and 'Structured Outputs' (release 0.12 and later): the Completions
endpoint takes `prompt_embeds`, torch tensors in base64, and a regular expression that answers must match. The server:

    vllm serve FOLDER/language --served-model-name capellm --enable-prompt-embeds --enable-prefix-caching

Use it only with your own server on a private network: vLLM deserialises the tensors that it receives.
"""

from __future__ import annotations

import base64
import io
import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cape.capellm.configuration import Readout
from cape.capellm.coordinates import ANSWER_PATTERN, parse_coordinates
from cape.capellm.prompts import Prompts, prompts_of
from cape.capellm.tokenizer import CapeLlmTokenizer
from cape.models.capellm.decoding import DecodingCost, Located
from cape.models.capellm.prompter import Prompter
from cape.support import SupportDefinition

MODEL = "capellm"
"""Name that the server gives the model, unless told otherwise."""

NEW_TOKENS = 16
"""More than any spelling of an answer has, its end included: the pattern ends it, not this."""

TIMEOUT = 120.0
"""Timeout of an answer in seconds: a first request may have to wait for kernels to be compiled."""


class VllmError(RuntimeError):
    """The server does not answer, rejects the request, or returns an invalid answer. The message says which."""


class VllmPredictor:
    """Finds the keypoints of a support in crops; used like `CapeLlmPredictor`.

    Args:
        prompter: embeds the prompts.
        tokenizer: of the vocabulary.
        url: of the server, 'http://localhost:8000'.
        model: what the server calls the model.
        device: where images are encoded.
        dtype: in which embeddings travel; half precision halves what is sent.
    """

    def __init__(
        self,
        prompter: Prompter,
        tokenizer: CapeLlmTokenizer,
        url: str,
        *,
        model: str = MODEL,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._prompter = prompter.to(device).eval()
        self._tokenizer = tokenizer
        self._url = url.rstrip("/") + "/v1/completions"
        self._model = model
        self._device = device
        self._dtype = dtype

    def prompts(self, support: SupportDefinition) -> Prompts:
        """The tokens of a support's words; of its images nothing is used."""
        instruction = self._prompter.configuration.instruction
        return prompts_of(self._tokenizer, instruction, support.category, support.keypoints)

    @torch.inference_mode()
    def encode(self, crops: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Crops uint8 [S, S, 3] → image tokens [B, N, D]."""
        return self._prompter.image_tokens(torch.from_numpy(np.stack(crops)).to(self._device))

    @torch.inference_mode()
    def locate(self, image_tokens: Tensor, prompts: Prompts, readout: Readout = "greedy") -> Located:
        """Finds all keypoints in B crops; R = B · K answers, those of the first crop first.

        The first question about an image goes alone: the others then find keys and values of the image in the
        server's prefix cache, and go as one request.

        Args:
            image_tokens: [B, N, D].
            prompts: from `prompts`.
            readout: 'greedy' alone: the server tells no distributions over digits.

        Returns:
            As `decoding.locate`; of its cost, `steps` is not known and 0.

        Raises:
            VllmError: see there.
            ValueError: the readout is not greedy.
        """
        if readout != "greedy":
            raise ValueError("readout: vLLM supports only 'greedy'")
        cost = DecodingCost()
        choices: list[Mapping[str, Any]] = []
        for image in image_tokens:
            embedded = [self._prompter.prompt(image, prompts.opening, question) for question in prompts.questions]
            for some in (embedded[:1], embedded[1:]):
                if some:
                    choices += self._complete(some, cost)
        places = [parse_coordinates(str(choice["text"])) or (math.nan, math.nan) for choice in choices]
        return Located(
            torch.tensor(places).reshape(-1, 2),
            torch.tensor([_score(choice) for choice in choices]),
            tuple(self._tokenizer.encode(str(choice["text"])) for choice in choices),
            cost,
        )

    def _complete(self, prompts: Sequence[Tensor], cost: DecodingCost) -> list[Mapping[str, Any]]:
        """Answers to prompts [L, D] of one request, in their order."""
        body = {
            "model": self._model,
            "prompt_embeds": [_encoded(prompt.to(self._dtype)) for prompt in prompts],
            "max_tokens": NEW_TOKENS,
            "temperature": 0,
            "logprobs": 1,
            "structured_outputs": {"regex": ANSWER_PATTERN},
        }
        answer = self._post(body)
        try:
            found = sorted(answer["choices"], key=lambda choice: choice["index"])
            cost.prompt_tokens += int(answer["usage"]["prompt_tokens"])
            cost.answer_tokens += int(answer["usage"]["completion_tokens"])
            complete = len(found) == len(prompts) and all("text" in choice for choice in found)
        except (KeyError, TypeError, ValueError) as error:
            raise VllmError(f"{self._url}: no completions in the answer ({error!r})") from None
        if not complete:
            raise VllmError(f"{self._url}: {len(found)} completions for {len(prompts)} prompts")
        return found

    def _post(self, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise VllmError(f"{self._url}: {error.code} {error.read(2000).decode(errors='replace')}") from None
        except (OSError, ValueError) as error:
            raise VllmError(f"{self._url}: {error}") from None


def _encoded(tensor: Tensor) -> str:
    """A tensor as torch saves it, in base64: what vLLM's `prompt_embeds` is."""
    file = io.BytesIO()
    torch.save(tensor.cpu().contiguous().clone(), file)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _score(choice: Mapping[str, Any]) -> float:
    """Mean probability of the digits behind both points; NaN where the server told none.

    vLLM's `--logprobs-mode raw_logprobs`, its default, is the model's own distribution, before the pattern.
    """
    said = choice.get("logprobs") or {}
    probabilities, behind = [], False
    for token, logprob in zip(said.get("tokens", ()), said.get("token_logprobs", ()), strict=False):
        if behind and token.isdigit():
            probabilities.append(math.exp(logprob))
        behind = token.endswith(".") or (behind and token.isdigit())
    return sum(probabilities) / len(probabilities) if probabilities else math.nan
