"""CapeLLM checkpoints: a folder of `config.json`, `model.safetensors` and `tokenizer.json`, adapters merged."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from cape.capellm.configuration import CapeLlmConfiguration, parse_capellm_configuration
from cape.capellm.tokenizer import CapeLlmTokenizer, TokenizerError
from cape.checkpoints import CONFIGURATION_FILE, TOKENIZER_FILE, WEIGHTS_FILE, CheckpointError, file_digest
from cape.configuration import BackboneConfiguration, ConfigurationError
from cape.models.capellm.adapters import merged_state
from cape.models.capellm.model import CapeLlm
from cape.pretrained.packages import PretrainedError, backbone_state

VISION_PREFIX = "vision.network."


class CapeLlmCheckpoint(NamedTuple):
    """A loaded model.

    Attributes:
        model: in evaluation mode.
        tokenizer: of its vocabulary.
        source: where it came from.
        sha256: digest of its configuration, weights and tokenizer.
    """

    model: CapeLlm
    tokenizer: CapeLlmTokenizer
    source: Path
    sha256: str


def untrained_capellm(configuration: CapeLlmConfiguration, seed: int = 0) -> CapeLlm:
    """A model with reproducible random weights; a vision encoder from a package is pretrained.

    Raises:
        CheckpointError: the package is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CapeLlm(configuration.model_copy(update={"trained": False}))
    model.vision.network.load_state_dict(_packaged(configuration), strict=configuration.vision.weights != "stored")
    return model.eval()


def save_capellm(model: CapeLlm, folder: Path, tokenizer: Tokenizer, dtype: torch.dtype | None = None) -> None:
    """Writes a checkpoint, adapters merged; files are replaced, each one atomically.

    A vision encoder whose weights come from an installed package is left out, and so are tied weights.

    Args:
        model: to write.
        folder: created if need be.
        tokenizer: of its vocabulary.
        dtype: stores floating-point weights as this type; None: as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Tensor] = {}
    left_out = VISION_PREFIX if model.configuration.vision.weights != "stored" else "\0"
    kept: set[int] = set()
    for key, value in merged_state(model).items():
        if not key.startswith(left_out) and value.data_ptr() not in kept:
            kept.add(value.data_ptr())
            state[key] = (value.to(dtype) if dtype and value.is_floating_point() else value).contiguous()
    partial = folder / f".{WEIGHTS_FILE}.partial"
    save_file(state, partial)
    partial.replace(folder / WEIGHTS_FILE)
    for name, text in (
        (TOKENIZER_FILE, tokenizer.to_str(pretty=True)),
        (CONFIGURATION_FILE, model.configuration.model_dump_json(indent=2) + "\n"),
    ):
        partial = folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)


def load_capellm(folder: Path) -> CapeLlmCheckpoint:
    """Reads a checkpoint.

    Raises:
        CheckpointError: naming the file, the field, or every missing or unexpected key.
    """
    files = [folder / name for name in (CONFIGURATION_FILE, WEIGHTS_FILE, TOKENIZER_FILE)]
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; a CapeLLM checkpoint is a folder with all three files")
    try:
        configuration = parse_capellm_configuration(files[0].read_bytes(), files[0])
        state = load_file(files[1])
        tokenizer = CapeLlmTokenizer.read(files[2], configuration.special_tokens)
    except SafetensorError as error:
        raise CheckpointError(f"{files[1]}: not a safetensors file ({error})") from None
    except (ConfigurationError, TokenizerError) as error:
        raise CheckpointError(str(error)) from None
    state |= {VISION_PREFIX + key: value for key, value in _packaged(configuration).items()}
    with torch.random.fork_rng(devices=[]):
        model = CapeLlm(configuration)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{files[1]}: {' '.join(str(error).split())}") from None
    tied = set(getattr(model.language, "_tied_weights_keys", None) or ())
    if model.language.config.tie_word_embeddings:
        missing = [key for key in missing if key.removeprefix("language.") not in tied]
    if missing or unexpected:
        raise CheckpointError(f"{files[1]}: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    return CapeLlmCheckpoint(model.eval(), tokenizer, folder, file_digest(*files))


def _packaged(configuration: CapeLlmConfiguration) -> dict[str, Tensor]:
    """Loads the vision encoder's weights from a package; empty if they are stored."""
    vision = configuration.vision
    if vision.weights == "stored":
        return {}
    try:
        return backbone_state(BackboneConfiguration(kind="efficientnet_lite0", weights=vision.weights))
    except PretrainedError as error:
        raise CheckpointError(str(error)) from None
