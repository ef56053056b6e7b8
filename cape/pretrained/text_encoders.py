"""Pretrained text encoders: a local Hugging Face folder, or a package that holds one.

Nothing is downloaded. A folder is what `git clone` or `huggingface-cli download` of a model leaves, in the layout of
transformers or sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tokenizers import Tokenizer
from torch import Tensor

from cape.configuration import Pooling, TextConfiguration
from cape.pretrained.packages import MINILM_PACKAGE, PretrainedError, package_folder
from cape.pretrained.text_layouts import (
    architecture_from_config,
    bert_from_folder,
    find_text_encoder,
    unsupported_settings,
)
from cape.pretrained.weight_files import WeightsError, read_json, read_shards, read_weights

State = dict[str, Tensor]

BERT_VOCABULARY_SIZES = (30522, 30528)
"""BERT's uncased vocabulary, as it is and as gte pads it."""

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where a folder's weights are, the first that is there."""

TEXT_ENCODER_FOLDER = "config.json, tokenizer.json, and model.safetensors or pytorch_model.bin, whole or in shards"

KINDS: dict[str, Literal["gte", "bert", "clip"]] = {
    "bert": "bert",
    "gte": "gte",
    "new": "gte",
    "clip": "clip",
    "clip_text_model": "clip",
}
"""model_type of a Hugging Face config.json → kind; 'new' is the original gte-base-en-v1.5."""

POOLINGS: dict[str, Pooling] = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len": "mean",
    "mean_sqrt_len_tokens": "mean",
    "max": "max",
    "max_tokens": "max",
    "weightedmean": "weighted_mean",
    "weightedmean_tokens": "weighted_mean",
    "lasttoken": "last",
}
"""sentence-transformers' pooling modes → ours. Division by the root of the length goes when vectors get unit length."""


class PretrainedTextEncoder(NamedTuple):
    """A text encoder with its weights and tokenizer.

    Attributes:
        configuration: its architecture and pooling.
        state: parameters, named as `cape.models.text.TextEncoder.tower` names them.
        tokenizer: path of its tokenizers JSON file.
    """

    configuration: TextConfiguration
    state: State
    tokenizer: Path


def packaged_text_encoder(name: str) -> PretrainedTextEncoder:
    """The text encoder that an installed package holds.

    Raises:
        PretrainedError: as `read_text_encoder`.
    """
    return read_text_encoder(package_folder(name) / "model", weights=f"package:{name}")


def bert_tokenizer(text: TextConfiguration) -> Path:
    """The tokenizer of BERT's vocabulary, which gte and MiniLM share and the MiniLM package holds.

    Raises:
        PretrainedError: the text encoder has another vocabulary, or the package is not installed.
    """
    if text.kind != "clip" and text.architecture["vocab_size"] in BERT_VOCABULARY_SIZES:
        return package_folder(MINILM_PACKAGE) / "model" / "tokenizer.json"
    raise PretrainedError("the text encoder needs its tokenizer: give its tokenizer.json (--tokenizer)")


def read_text_encoder(folder: Path, weights: str = "stored") -> PretrainedTextEncoder:
    """Reads a Hugging Face folder of a BERT-style sentence encoder, GTE or CLIP.

    Args:
        folder: holds config.json, tokenizer.json and the weights, whole or in shards. What sentence-transformers adds
            (pooling, length, casing) is used where it is there.
        weights: what the configuration shall say of where the weights are.

    Raises:
        PretrainedError: naming the file that is missing or damaged, or what in it is not supported.
    """
    try:
        return _read_folder(folder, weights)
    except PretrainedError:
        raise
    except WeightsError as error:
        raise PretrainedError(str(error)) from None


def _read_folder(folder: Path, weights: str) -> PretrainedTextEncoder:
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise PretrainedError(f"{folder / name}: missing; a text encoder's folder holds {TEXT_ENCODER_FOLDER}")
    document = read_json(folder / "config.json")
    model_type = str(document.get("model_type"))
    if model_type not in KINDS:
        raise PretrainedError(f"{folder / 'config.json'}: model_type {model_type!r} is none of {', '.join(KINDS)}")
    kind = KINDS[model_type]
    if problem := unsupported_settings(kind, document):
        raise PretrainedError(f"{folder / 'config.json'}: {problem}")
    modules = _modules(folder)
    architecture = architecture_from_config(kind, document)
    state = _read_weights(folder, kind)
    configuration = TextConfiguration(
        kind=kind,
        name=_name(folder, document),
        pooling=_pooling(folder, kind, modules),
        max_tokens=_max_tokens(folder, architecture),
        architecture=architecture,
        weights=weights,
    )
    _check_casing(folder)
    return PretrainedTextEncoder(configuration, state, folder / "tokenizer.json")


def _name(folder: Path, document: Mapping[str, Any]) -> str:
    known = str(document.get("_name_or_path") or "")
    return folder.name if folder.name not in ("model", "") else known.rsplit("/", 1)[-1] or folder.name


def _modules(folder: Path) -> dict[str, Path]:
    """Class name → folder of the steps that sentence-transformers lists in modules.json."""
    path = folder / "modules.json"
    if not path.is_file():
        return {"Pooling": folder / "1_Pooling"}
    listed = read_json(path, kind=list)
    found = {}
    for entry in listed:
        name = str(entry.get("type", "")).rsplit(".", 1)[-1] if isinstance(entry, dict) else ""
        if name not in ("Transformer", "Pooling", "Normalize"):
            raise PretrainedError(f"{path}: a step {name!r} after the text encoder is not supported")
        found[name] = folder / str(entry.get("path", ""))
    return found


def _pooling(folder: Path, kind: str, modules: Mapping[str, Path]) -> Pooling:
    """How token states become one vector, as the folder says; without a word CLS."""
    if kind == "clip":
        return "projection"
    path = modules.get("Pooling", folder / "1_Pooling") / "config.json"
    if not path.is_file():
        return "cls"
    document = read_json(path)
    named = document.get("pooling_mode")
    prefix = "pooling_mode_"
    modes = [key.removeprefix(prefix) for key, value in document.items() if key.startswith(prefix) and value]
    if named is not None:
        modes = [str(mode) for mode in (named if isinstance(named, list) else [named])]
    if len(modes) != 1:
        listed = " and ".join(sorted(modes)) or "none"
        raise PretrainedError(f"{path}: pooling modes: {listed}; exactly one is supported")
    if modes[0] not in POOLINGS:
        raise PretrainedError(f"{path}: pooling mode {modes[0]!r} is not supported")
    return POOLINGS[modes[0]]


def _max_tokens(folder: Path, architecture: Mapping[str, Any]) -> int:
    """Tokens after which a text is cut: as published, or what the model can take if that is less."""
    limits = [TextConfiguration().max_tokens, architecture.get("max_position_embeddings")]
    for name, field in (("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length")):
        if (folder / name).is_file():
            limits.append(read_json(folder / name).get(field))
    return max(2, min(int(limit) for limit in limits if isinstance(limit, int | float) and limit > 0))


def _check_casing(folder: Path) -> None:
    """Refuses a folder whose files contradict each other on whether texts are read in lower case."""
    document = read_json(folder / "tokenizer.json")
    lowercases = _lowercases(document)
    for name in ("tokenizer_config.json", "sentence_bert_config.json"):
        if not (folder / name).is_file():
            continue
        wanted = read_json(folder / name).get("do_lower_case")
        # For sentence-transformers, false means that it adds no lower-casing of its own.
        contradicts = wanted is True and not lowercases
        contradicts |= wanted is False and lowercases and name == "tokenizer_config.json"
        if contradicts:
            does = "makes texts lower case" if lowercases else "keeps capitals"
            raise PretrainedError(
                f"{folder / name}: do_lower_case is {str(wanted).lower()}, but tokenizer.json {does}: make them agree"
            )


def _lowercases(document: Mapping[str, Any]) -> bool:
    normalizer = document.get("normalizer")
    steps = [normalizer, *(normalizer.get("normalizers") or [])] if isinstance(normalizer, dict) else []
    return any(
        step.get("type") == "Lowercase" or (step.get("type") == "BertNormalizer" and step.get("lowercase", True))
        for step in steps
    )


def check_tokenizer(path: Path) -> Path:
    """Returns the path of a tokenizers JSON file once it has been read.

    Raises:
        PretrainedError: it is none, or damaged.
    """
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise PretrainedError(f"{path}: not a tokenizer ({' '.join(str(error).split())[:120]})") from None
    return path


def _read_weights(folder: Path, kind: str) -> State:
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise PretrainedError(f"{folder}: no weights; a text encoder's folder holds {TEXT_ENCODER_FOLDER}")
    state = read_shards(path) if path.name.endswith(".index.json") else read_weights(path)
    found = ("bert", bert_from_folder(state)) if kind == "bert" else find_text_encoder(state)
    if found is None or found[0] != kind or not found[1]:
        raise PretrainedError(f"{path}: the weights are not those of a {kind} text encoder")
    return found[1]
