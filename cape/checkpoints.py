"""The checkpoint format of capeserve: a folder with `config.json`, `model.safetensors` and, for text, `tokenizer.json`.

Loading checks every key and shape, and never unpickles.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from cape.configuration import ConfigurationError, SystemConfiguration, parse_configuration
from cape.models.system import System
from cape.pretrained.packages import PretrainedError, backbone_state
from cape.pretrained.text_encoders import bert_tokenizer, packaged_text_encoder
from cape.pretrained.weight_files import WeightsError, check_finite, read_safetensors

CONFIGURATION_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"

BACKBONE_PREFIX = "image_backbone.network."
TEXT_PREFIX = "text_encoder.tower."


class CheckpointError(WeightsError):
    """A checkpoint is missing, damaged, or does not match its configuration. Names every affected key."""


class Checkpoint(NamedTuple):
    """A loaded model.

    Attributes:
        system: the model, in evaluation mode.
        tokenizer: path of its tokenizers JSON file; None if the system reads no text.
        source: path that it was loaded from.
        sha256: digest of its weights and configuration.
    """

    system: System
    tokenizer: Path | None
    source: Path
    sha256: str


def save_checkpoint(
    system: System, folder: Path, tokenizer: Path | None = None, dtype: torch.dtype | None = None
) -> None:
    """Writes a checkpoint. Encoders whose weights come from an installed package are left out.

    Args:
        system: the model.
        folder: created if missing. Existing files are replaced atomically.
        tokenizer: tokenizers JSON file to copy beside the weights.
        dtype: type to store floating-point weights in; None keeps theirs.
    """
    configuration = system.configuration
    folder.mkdir(parents=True, exist_ok=True)
    left_out = tuple(_packaged_prefixes(configuration))
    state = {
        key: (value.to(dtype) if dtype and value.is_floating_point() else value).contiguous()
        for key, value in system.state_dict().items()
        if not key.startswith(left_out)
    }
    partial = folder / f".{WEIGHTS_FILE}.partial"
    save_file(state, partial)
    partial.replace(folder / WEIGHTS_FILE)
    if tokenizer is not None and tokenizer.resolve() != (folder / TOKENIZER_FILE).resolve():
        shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
    partial = folder / f".{CONFIGURATION_FILE}.partial"
    partial.write_text(configuration.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / CONFIGURATION_FILE)


def load_checkpoint(folder: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        folder: written by `save_checkpoint`.
        tokenizer: replaces the tokenizer beside the weights.

    Raises:
        CheckpointError: naming the file, the field, or every missing, unexpected or misshapen key.
    """
    for name in (CONFIGURATION_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing; a checkpoint is a folder with both")
    text = (folder / CONFIGURATION_FILE).read_bytes()
    try:
        configuration = parse_configuration(text, folder / CONFIGURATION_FILE)
        state = read_safetensors(folder / WEIGHTS_FILE)
        state |= _packaged_state(configuration)
        tokenizer = tokenizer or find_tokenizer(configuration, folder)
    except (ConfigurationError, WeightsError) as error:
        raise CheckpointError(str(error)) from None
    with torch.random.fork_rng(devices=[]):
        system = System(configuration)
    load_state(system, state, folder / WEIGHTS_FILE)
    return Checkpoint(system.eval(), tokenizer, folder, file_digest(folder / CONFIGURATION_FILE, folder / WEIGHTS_FILE))


def file_digest(*paths: Path) -> str:
    """SHA-256 of the concatenated content of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def untrained(configuration: SystemConfiguration, seed: int = 0) -> System:
    """Makes a model with reproducible random weights. Encoders with weights in a package are pretrained.

    Raises:
        CheckpointError: a package is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        system = System(configuration.model_copy(update={"trained": False}))
    try:
        packaged = _packaged_state(configuration)
    except PretrainedError as error:
        raise CheckpointError(str(error)) from None
    system.load_state_dict(packaged, strict=False)
    return system.eval()


def untrained_checkpoint(configuration_file: Path, tokenizer: Path | None = None, seed: int = 0) -> Checkpoint:
    """Makes a checkpoint with random weights from a configuration.

    Args:
        configuration_file: a `config.json`.
        tokenizer: tokenizers JSON file; None for BERT's vocabulary, if the text encoder uses it.
        seed: seed of the random weights.

    Raises:
        CheckpointError: a package is not installed, or the tokenizer is missing.
        ConfigurationError: naming the field that is wrong.
    """
    text = configuration_file.read_bytes()
    configuration = parse_configuration(text, configuration_file)
    try:
        if configuration.text is not None and tokenizer is None:
            tokenizer = bert_tokenizer(configuration.text)
    except PretrainedError as error:
        raise CheckpointError(str(error)) from None
    system = untrained(configuration, seed)
    return Checkpoint(system, tokenizer, configuration_file, hashlib.sha256(text + str(seed).encode()).hexdigest())


def find_tokenizer(configuration: SystemConfiguration, folder: Path) -> Path | None:
    """Finds the tokenizer beside a checkpoint, or in the package with its text encoder.

    Raises:
        CheckpointError: the system reads text, and there is none.
        PretrainedError: the package is not installed.
    """
    if configuration.text is None:
        return None
    if configuration.text.weights.startswith("package:"):
        return packaged_text_encoder(configuration.text.weights.removeprefix("package:")).tokenizer
    if not (folder / TOKENIZER_FILE).is_file():
        raise CheckpointError(f"{folder / TOKENIZER_FILE}: missing; {configuration.text.name} needs its tokenizer")
    return folder / TOKENIZER_FILE


def load_state(system: System, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Loads parameters by name into a model, converted to the model's precision.

    Raises:
        CheckpointError: naming every missing, unexpected or misshapen key, and keys with NaN or infinite values.
    """
    expected = system.state_dict()
    problems = [
        *_listed("missing", expected.keys() - state.keys()),
        *_listed("unexpected", state.keys() - expected.keys()),
        *_listed(
            "of the wrong shape",
            (
                f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
                for key in expected.keys() & state.keys()
                if expected[key].shape != state[key].shape
            ),
        ),
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit its configuration\n" + "\n".join(problems))
    try:
        check_finite(state, source)
    except WeightsError as error:
        raise CheckpointError(str(error)) from None
    system.load_state_dict(state)


def _listed(what: str, keys: Iterable[str]) -> list[str]:
    names = sorted(keys)
    return [f"  {what} ({len(names)}): {', '.join(names)}"] if names else []


def _packaged_prefixes(configuration: SystemConfiguration) -> list[str]:
    prefixes = []
    if configuration.backbone.weights.startswith("package:"):
        prefixes.append(BACKBONE_PREFIX)
    if configuration.text is not None and configuration.text.weights.startswith("package:"):
        prefixes.append(TEXT_PREFIX)
    return prefixes


def _packaged_state(configuration: SystemConfiguration) -> dict[str, Tensor]:
    """Loads the weights in installed packages, with the parameter names of `System`."""
    state: dict[str, Tensor] = {}
    for prefix in _packaged_prefixes(configuration):
        if prefix == BACKBONE_PREFIX:
            weights = backbone_state(configuration.backbone)
        else:
            assert configuration.text is not None
            weights = packaged_text_encoder(configuration.text.weights.removeprefix("package:")).state
        state |= {prefix + key: value for key, value in weights.items()}
    return state
