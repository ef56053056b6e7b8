"""A CapeLLM for vLLM: its language model as a Hugging Face folder, and what makes the prompts beside it.

FOLDER/language    config.json, model.safetensors, generation_config.json, tokenizer files: for `vllm serve`
FOLDER/prompter    vision tower, projection, token embeddings: for `cape.models.capellm.vllm.VllmPredictor`
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from transformers import GenerationConfig, PreTrainedTokenizerFast

from cape.models.capellm.checkpoint import CapeLlmCheckpoint
from cape.models.capellm.prompter import save_prompter
from export.graph import ExportError

LANGUAGE, PROMPTER = "language", "prompter"


class VllmFolders(NamedTuple):
    """What was written.

    Attributes:
        language: what `vllm serve` is given.
        prompter: what clients load.
    """

    language: Path
    prompter: Path


def export_vllm(checkpoint: CapeLlmCheckpoint, folder: Path) -> VllmFolders:
    """Writes a model for vLLM.

    Args:
        checkpoint: with text answers; adapters are merged in checkpoints already.
        folder: to write to; must not exist, or be empty.

    Raises:
        ExportError: the model answers by a token, whose hidden state vLLM does not give, or the folder is in use.
    """
    if checkpoint.model.coordinates is not None:
        raise ExportError("a model that answers by <KEYPOINT> is read off hidden states, which vLLM does not give")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} is there already")
    folders = VllmFolders(folder / LANGUAGE, folder / PROMPTER)
    language, tokenizer = checkpoint.model.language, checkpoint.tokenizer
    own = checkpoint.model.configuration.language
    language.config.bos_token_id, language.config.eos_token_id = tokenizer.begin, tokenizer.end
    # What vLLM takes its sampling defaults from, and where it learns which token ends an answer.
    language.generation_config = GenerationConfig(
        bos_token_id=tokenizer.begin, eos_token_id=tokenizer.end, do_sample=False
    )
    language.save_pretrained(folders.language)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.tokenizer, bos_token=own.begin, eos_token=own.end
    ).save_pretrained(folders.language)
    save_prompter(checkpoint, folders.prompter)
    return folders
