"""The weights and the vocabulary that a run begins with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, Dinov2Model

from cape.capellm.configuration import CapeLlmConfiguration
from cape.capellm.coordinates import KEYPOINT_TOKEN
from cape.capellm.grammar import AnswerGrammar
from cape.capellm.instructions import OUTLINE, QUESTIONS
from cape.capellm.tokenizer import CapeLlmTokenizer, train_tokenizer
from cape.checkpoints import TOKENIZER_FILE, CheckpointError
from cape.data.dataset import Category
from cape.models.capellm.adapters import add_adapters
from cape.models.capellm.checkpoint import load_capellm, untrained_capellm
from cape.models.capellm.model import CapeLlm
from cape.training.capellm.configuration import CapeLlmTrainingConfiguration

PUNCTUATION = "User: Assistant: Reference: What is the object in this image? Which of these keypoints is at? Yes"


def begin(
    configuration: CapeLlmTrainingConfiguration, categories: Iterable[Category]
) -> tuple[CapeLlm, CapeLlmTokenizer]:
    """Makes the model of a run, adapters in place, and its tokenizer.

    Args:
        configuration: of the run.
        categories: whose words a vocabulary of our own is made from, where none is given.

    Raises:
        CheckpointError, TokenizerError: weights or vocabulary are missing or do not fit.
    """
    wanted, beginning = configuration.model, configuration.beginning
    if beginning.checkpoint is not None:
        earlier = load_capellm(beginning.checkpoint)
        if earlier.model.configuration.model_copy(update={"trained": wanted.trained}) != wanted:
            raise CheckpointError(f"{beginning.checkpoint}: its configuration is not the model of this run")
        model, tokenizer = earlier.model, earlier.tokenizer
    else:
        tokenizer = _tokenizer(configuration, categories)
        model = untrained_capellm(wanted, configuration.seed)
        _take_towers(model, beginning.vision_folder, beginning.language_folder)
        if beginning.number_waves:
            _number_waves(model, AnswerGrammar(tokenizer))
    rows = int(model.language.get_input_embeddings().num_embeddings)
    if tokenizer.tokenizer.get_vocab_size() > rows:
        raise CheckpointError(
            f"model.language.architecture.vocab_size: {rows}, the tokenizer has "
            f"{tokenizer.tokenizer.get_vocab_size()} tokens"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(configuration.seed)
        for tower, how in ((model.vision, configuration.vision), (model.language, configuration.language)):
            tower.requires_grad_(how == "full")
            if how == "lora":
                add_adapters(tower, **configuration.lora.model_dump())
    if wanted.instruction.answer == "token":
        # A new word: input embeddings are trained with it (Appendix B.2).
        model.language.get_input_embeddings().requires_grad_(True)
    return model, tokenizer


def own_tokenizer(model: CapeLlmConfiguration, categories: Iterable[Category]) -> Tokenizer:
    """A vocabulary as large as the language model's, made from the words of some categories.

    Raises:
        TokenizerError: it has no room for all numbers.
    """
    return train_tokenizer(_words(categories), model, int(model.language.architecture["vocab_size"]))


def _tokenizer(configuration: CapeLlmTrainingConfiguration, categories: Iterable[Category]) -> CapeLlmTokenizer:
    model, beginning = configuration.model, configuration.beginning
    path = beginning.tokenizer
    if path is None and beginning.language_folder is not None:
        path = beginning.language_folder / TOKENIZER_FILE
    if path is None:
        return CapeLlmTokenizer(own_tokenizer(model, categories), model.special_tokens)
    if model.instruction.answer == "text":
        return CapeLlmTokenizer.read(path, model.special_tokens)
    plain = model.model_copy(update={"instruction": model.instruction.model_copy(update={"answer": "text"})})
    tokenizer = CapeLlmTokenizer.read(path, plain.special_tokens).tokenizer
    tokenizer.add_special_tokens([KEYPOINT_TOKEN])
    return CapeLlmTokenizer(tokenizer, model.special_tokens)


def _words(categories: Iterable[Category]) -> Iterator[str]:
    """What a model will be told, so often that words become tokens."""
    for category in categories:
        yield from (*QUESTIONS, PUNCTUATION, category.name)
        for index, keypoint in enumerate(category.keypoints):
            yield from (f"the {keypoint.name} ", keypoint.description)
            if index < len(category.paraphrases):
                yield from category.paraphrases[index]
    yield OUTLINE


def _take_towers(model: CapeLlm, vision_folder: Path | None, language_folder: Path | None) -> None:
    tower: Any
    language: Any
    try:
        if vision_folder is not None:
            tower = Dinov2Model.from_pretrained(vision_folder, local_files_only=True)
            model.vision.network.load_state_dict(tower.state_dict())
        if language_folder is not None:
            language = AutoModelForCausalLM.from_pretrained(language_folder, local_files_only=True, dtype=torch.float32)
            # <KEYPOINT> is a new word: model.language.architecture.vocab_size counts it.
            language.resize_token_embeddings(int(model.language.get_input_embeddings().num_embeddings))
            model.language.load_state_dict(language.state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"beginning: {' '.join(str(error).split())}") from None


@torch.no_grad()
def _number_waves(model: CapeLlm, grammar: AnswerGrammar) -> None:
    """Embeddings of the numbers as sines and cosines of their value, in octaves from one wave to 64."""
    embeddings = model.language.get_input_embeddings().weight
    scale, width = float(embeddings.std()), embeddings.shape[1]
    frequencies = 2 ** torch.linspace(0, 6, width // 2)
    values = torch.from_numpy(grammar.numbers.centres).float()
    angles = math.tau * values[:, None] * frequencies / 2
    waves = torch.cat((angles.sin(), angles.cos()), dim=1) * scale * math.sqrt(2)
    embeddings[torch.from_numpy(grammar.numbers.tokens), : waves.shape[1]] = waves
