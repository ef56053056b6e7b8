"""Reads files of weights that others wrote: PyTorch pickles, safetensors, and folders of shards.

A pickle can name any function for its reader to call. Here only tensors are rebuilt; every other object becomes an
`InertObject`, which runs nothing. A file that is no checkpoint (a web page, a git-lfs pointer, a download that was
cut short) is refused with its cause.
"""

from __future__ import annotations

import collections
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

State = dict[str, Tensor]

STATE_KEYS = ("state_dict", "model_state_dict", "model", "module", "network", "params", "weights")
"""Where training code puts the parameters in a checkpoint's dictionary, the usual place first."""

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts that torch's wrappers add to parameter names: DataParallel, compile, FSDP, activation checkpointing."""

SIGNATURES = (
    (b"version https://git-lfs", "a git-lfs pointer"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF\r\n", "an HDF5 file, not a PyTorch checkpoint"),
)

SHOWN = 5
"""Names listed in an error before the rest is only counted."""


class WeightsError(ValueError):
    """A file of weights that is missing, damaged, or of a kind that is not read."""


class InertObject(dict[Any, Any]):
    """Stands for an object of a class that is not loaded. Keeps items it is given and ignores everything else."""

    class_name = "object"

    def __new__(cls, *arguments: Any, **options: Any) -> InertObject:
        """Takes the arguments of any constructor."""
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None: ...

    def __call__(self, *arguments: Any, **options: Any) -> InertObject:
        """An inert object again."""
        return InertObject()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def append(self, item: Any) -> None:
        """Ignored: what list-like classes are filled with."""

    def extend(self, items: Iterable[Any]) -> None:
        """Ignored, as `append`."""

    def add(self, item: Any) -> None:
        """Ignored: what set-like classes are filled with."""


@lru_cache(maxsize=1)
def _rebuilders() -> dict[str, Callable[[], Any]]:
    """Names in a pickle that stand for real values: tensors, dtypes and plain containers.

    Functions are wrapped for each use, so that a pickle that sets attributes cannot reach torch's own.
    """

    def wrapped(function: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: lambda *arguments: function(*arguments)

    utils: Any = torch._utils
    values: dict[str, Callable[[], Any]] = {
        f"torch._utils.{name}": wrapped(getattr(utils, name))
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
    }
    values["torch._utils._rebuild_parameter_with_state"] = lambda: lambda data, gradient, hooks, state: data
    values["torch._tensor._rebuild_from_type_v2"] = lambda: _from_type
    values["torch.nn.parameter.Parameter"] = wrapped(lambda data, *_: data)
    values["torch.Size"] = wrapped(torch.Size)
    values["collections.OrderedDict"] = lambda: collections.OrderedDict
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, complex, slice, int, float, str, bool, list, dict, tuple):
            values[f"{module}.{kind.__name__}"] = wrapped(kind)
    values["_codecs.encode"] = wrapped(lambda text, *_: str(text).encode("latin1"))
    for name in dir(torch):
        if isinstance(value := getattr(torch, name), torch.dtype):
            values[f"torch.{name}"] = lambda value=value: value  # type: ignore[misc]
    return values


def _from_type(function: Callable[..., Any], kind: Any, arguments: tuple[Any, ...], state: Any) -> Any:
    """A tensor with attributes of its own: the tensor without them."""
    return function(*arguments)


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors; objects of any other class are inert."""

    def find_class(self, module: str, name: str) -> Any:
        """Looks a global of the pickle up."""
        full_name = f"{module}.{name}"
        if (value := _rebuilders().get(full_name)) is not None:
            return value()
        return type("InertObject", (InertObject,), {"class_name": full_name})


_TENSORS_ONLY = SimpleNamespace(
    Unpickler=_TensorUnpickler,
    load=lambda file, **options: _TensorUnpickler(file, **options).load(),
    __name__="pickle",
)
"""In place of the pickle module when torch reads a file."""


def read_weights(path: Path) -> State:
    """Reads the parameters of a file.

    Args:
        path: a PyTorch file (its `state_dict`, or the file is one) or a safetensors file. Prefixes of torch's wrappers
            (`module.`, `_orig_mod.`) are removed.

    Returns:
        Tensors on the CPU by name.

    Raises:
        WeightsError: naming the file and why it cannot be used.
    """
    state = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return without_wrappers(state, path)


def read_safetensors(path: Path) -> State:
    """Reads a safetensors file.

    Raises:
        WeightsError: it is missing, cut short or something else.
    """
    _check_file(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file, or cut short ({error})") from None


def read_shards(index: Path) -> State:
    """Reads weights that are split over several files.

    Args:
        index: `model.safetensors.index.json` or `pytorch_model.bin.index.json`, beside the files that it names.

    Raises:
        WeightsError: a file is missing, or does not hold what the index says.
    """
    document = read_json(index)
    names = document.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{index}: no 'weight_map' of parameters and files")
    state: State = {}
    for name in sorted(set(map(str, names.values()))):
        if Path(name).name != name:
            raise WeightsError(f"{index}: {name!r} is not the name of a file beside it")
        shard = read_weights(index.parent / name)
        wanted = [key for key, file in names.items() if file == name]
        if absent := [key for key in wanted if key not in shard]:
            raise WeightsError(f"{index.parent / name}: lacks {_some(absent)}, which {index.name} places in it")
        state |= {key: shard[key] for key in wanted}
    return state


def read_json(path: Path, kind: type[Any] = dict) -> Any:
    """Reads a JSON file that holds an object, or a value of another kind.

    Raises:
        WeightsError: the file is missing, not JSON, or holds something else.
    """
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError, ValueError):
        raise WeightsError(f"{path}: not JSON") from None
    if not isinstance(document, kind):
        raise WeightsError(f"{path}: not a JSON {'object' if kind is dict else 'list'}")
    return document


def check_finite(state: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuses weights that are NaN or infinite, as a training run that diverged leaves them.

    Raises:
        WeightsError: naming the parameters.
    """
    broken = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise WeightsError(f"{source}: not a finite number in {_some(broken)}: did the training diverge?")


def without_wrappers(state: Mapping[str, Tensor], source: Path | str) -> State:
    """Parameters without the parts that torch's wrappers add to their names.

    Raises:
        WeightsError: two parameters get one name.
    """
    renamed = {".".join(part for part in key.split(".") if part not in WRAPPERS): value for key, value in state.items()}
    if len(renamed) < len(state):
        raise WeightsError(f"{source}: the same parameters with and without a wrapper's prefix: save one of them")
    return renamed


def _read_pickle(path: Path) -> State:
    _check_file(path)
    try:
        # Unlike weights_only=True this reads files that hold other objects beside the weights. It is no less strict:
        # `_TensorUnpickler` decides what a name in the pickle stands for.
        document: Any = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_TENSORS_ONLY)
    except Exception as error:  # pickle, zip and torch errors alike: none of them says what the file should be
        raise WeightsError(f"{path}: not a file of tensors, or damaged ({_reason(error)})") from None
    return _find_state(document, path)


def _find_state(document: Any, path: Path) -> State:
    """The mapping of tensors in what a file holds."""
    if isinstance(document, InertObject) and not document:
        raise WeightsError(
            f"{path}: a pickled object of class {document.class_name}, which is not loaded: save its state_dict() alone"
        )
    if not isinstance(document, Mapping):
        raise WeightsError(f"{path}: holds {_kind(document)}, no 'state_dict' of tensors")
    found: Any = document
    for key in STATE_KEYS:
        inner = document.get(key)
        if isinstance(inner, InertObject) and not inner:
            raise WeightsError(
                f"{path}: {key!r} is a pickled object of class {inner.class_name}: save its state_dict() instead"
            )
        if isinstance(inner, Mapping) and inner:
            found = inner
            break
    state = {str(key): value for key, value in found.items()}
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if not state or others:
        what = f"{others[0]!r} is {_kind(state[others[0]])}" if others else "it is empty"
        raise WeightsError(f"{path}: no 'state_dict' of tensors in it ({what})")
    return {key: value.detach() for key, value in state.items()}


def _kind(value: Any) -> str:
    return f"a {value.class_name}" if isinstance(value, InertObject) else f"a {type(value).__name__}"


def _check_file(path: Path) -> None:
    """Refuses what is plainly no file of weights.

    Raises:
        WeightsError: says what it is instead.
    """
    if path.is_dir():
        raise WeightsError(f"{path}: a folder, not a file of weights")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from None
    if not head:
        raise WeightsError(f"{path}: an empty file")
    for signature, what in SIGNATURES:
        if head.startswith(signature):
            if "git-lfs" in what and (size := re.search(rb"size (\d+)", head)):
                what += f" of {int(size[1]):,} bytes: run git lfs pull"
            raise WeightsError(f"{path}: {what}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")):
        raise WeightsError(
            f"{path}: an HTML or XML page instead of the file: the download asked for a confirmation or failed"
        )
    if text.startswith((b"{", b"[")) and b"\0" not in head:
        raise WeightsError(f"{path}: JSON text, not a file of weights")
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
    elif path.suffix != ".safetensors" and head[:1] != b"\x80":
        raise WeightsError(f"{path}: not a file of tensors (it begins with {head[:8]!r})")


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        size = path.stat().st_size
        raise WeightsError(f"{path}: cut short: {size:,} bytes of an archive whose end is missing") from None
    if any(name.rsplit("/", 1)[-1] == "constants.pkl" for name in names):
        raise WeightsError(f"{path}: a TorchScript program, which runs code: save the model's state_dict() instead")
    if not any(name.rsplit("/", 1)[-1] == "data.pkl" for name in names):
        raise WeightsError(f"{path}: a zip archive that is no PyTorch checkpoint (holds {_some(names)}): unpack it")


def _reason(error: Exception) -> str:
    """The first line of an error, without torch's advice to load unsafely."""
    lines = str(error).splitlines()
    line = lines[0] if lines else ""
    return type(error).__name__ if not line or "weights_only" in line else line[:200]


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
