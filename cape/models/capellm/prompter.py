"""The parts of CapeLLM that make prompts: vision encoder, projection and token embeddings.

For language models that another program, such as vLLM, runs from prompt embeddings. Stored as a folder of the same
three files as a checkpoint, of which the weights are a small part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cape.capellm.configuration import CapeLlmConfiguration, parse_capellm_configuration
from cape.capellm.tokenizer import CapeLlmTokenizer, TokenizerError
from cape.checkpoints import CONFIGURATION_FILE, TOKENIZER_FILE, CheckpointError
from cape.configuration import ConfigurationError
from cape.models.capellm.checkpoint import CapeLlmCheckpoint
from cape.models.capellm.vision import ImageProjection, VisionTower

PROMPTER_FILE = "prompter.safetensors"


class Prompter(nn.Module):
    """Embeds images and tokens as the language model would read them."""

    def __init__(self, configuration: CapeLlmConfiguration) -> None:
        super().__init__()
        self.configuration = configuration
        language = configuration.language
        self.vision = VisionTower(configuration.vision)
        self.projection = ImageProjection(configuration.vision, language.width)
        self.embeddings = nn.Embedding(int(language.architecture["vocab_size"]), language.width)

    def image_tokens(self, image: Tensor) -> Tensor:
        """Crops uint8 [B, S, S, 3] → image tokens [B, N, D]."""
        return self.projection(self.vision(image))

    def prompt(self, image_tokens: Tensor, opening: Sequence[int], question: Sequence[int]) -> Tensor:
        """A whole prompt, [N + T, D]: begin token, image, the rest of opening and question (equation 3).

        Args:
            image_tokens: [N, D].
            opening: begin token and what is the same for all questions.
            question: up to the answer.
        """
        ids = torch.tensor([*opening, *question], device=image_tokens.device)
        embedded = self.embeddings(ids)
        return torch.cat((embedded[:1], image_tokens.to(embedded.dtype), embedded[1:]))


class StoredPrompter(NamedTuple):
    """A prompter and its vocabulary; the prompter is in evaluation mode."""

    prompter: Prompter
    tokenizer: CapeLlmTokenizer


def prompter_of(checkpoint: CapeLlmCheckpoint) -> Prompter:
    """The prompter of a model; weights are shared, not copied."""
    model = checkpoint.model
    with torch.device("meta"):
        prompter = Prompter(model.configuration)
    prompter.vision, prompter.projection = model.vision, model.projection
    prompter.embeddings.weight = model.language.get_input_embeddings().weight
    return prompter.eval().requires_grad_(False)


def save_prompter(checkpoint: CapeLlmCheckpoint, folder: Path) -> None:
    """Writes the prompter of a model; `folder` is created if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in prompter_of(checkpoint).state_dict().items()}
    save_file(state, folder / PROMPTER_FILE)
    checkpoint.tokenizer.tokenizer.save(str(folder / TOKENIZER_FILE))
    text = checkpoint.model.configuration.model_dump_json(indent=2) + "\n"
    (folder / CONFIGURATION_FILE).write_text(text, encoding="utf-8")


def load_prompter(folder: Path) -> StoredPrompter:
    """Reads what `save_prompter` wrote.

    Raises:
        CheckpointError: naming the file that is missing or wrong.
    """
    files = [folder / name for name in (CONFIGURATION_FILE, PROMPTER_FILE, TOKENIZER_FILE)]
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; `capeserve export --vllm` writes it")
    try:
        configuration = parse_capellm_configuration(files[0].read_bytes(), files[0])
        prompter = Prompter(configuration)
        prompter.load_state_dict(load_file(files[1]))
        tokenizer = CapeLlmTokenizer.read(files[2], configuration.special_tokens)
    except (ConfigurationError, TokenizerError) as error:
        raise CheckpointError(str(error)) from None
    except Exception as error:  # safetensors and torch have errors of their own
        raise CheckpointError(f"{files[1]}: {' '.join(str(error).split())}") from None
    return StoredPrompter(prompter.eval().requires_grad_(False), tokenizer)
