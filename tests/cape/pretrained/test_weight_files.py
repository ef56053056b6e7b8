"""Files of weights as others write them: read as tensors alone, or refused with their cause."""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import pathlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cape.pretrained.weight_files import WeightsError, check_finite, read_shards, read_weights

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2, dtype=torch.float16)}


class History(dict[str, Any]):
    """A class as mmengine's: a mapping with state of its own."""

    def __init__(self) -> None:
        super().__init__(loss=1.0)
        self.window = collections.deque([1, 2], maxlen=5)


class Sneaky:
    """Calls a function when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (pathlib.Path.touch, (self.path,))


def assert_state(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == STATE.keys()
    for key, value in STATE.items():
        torch.testing.assert_close(found[key], value)
        assert found[key].dtype == value.dtype


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_the_weights_are_not_loaded(tmp_path: Path, protocol: int, zipped: bool) -> None:
    meta = {
        "best_score": np.float64(0.9),
        "half": np.float16(1),
        "array": np.arange(4),
        "text": np.str_("x"),
        "path": tmp_path,
        "arguments": argparse.Namespace(rate=0.1, sizes=[1, 2]),
        "history": History(),
        "seen": {1, 2},
        "counts": collections.Counter("abca"),
        "groups": collections.defaultdict(list, a=[1]),
        "complex": 1j,
        "dtype": np.dtype("int8"),
        History: "a class as key",
    }
    path = tmp_path / "run.pth"
    document = {"state_dict": collections.OrderedDict(STATE), "meta": meta, "epoch": 3}
    torch.save(document, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert_state(read_weights(path))


def test_nothing_in_a_file_is_called(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "meta": Sneaky(tmp_path / "executed")}, tmp_path / "run.pth")
    assert_state(read_weights(tmp_path / "run.pth"))
    assert not (tmp_path / "executed").exists()


def test_parameters_views_and_containers_are_read(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"parameter": torch.nn.Parameter(whole), "view": whole.T[1:], "brain": torch.ones(2, dtype=torch.bfloat16)}
    torch.save({"model": collections.OrderedDict(state), "optimizer": {"lr": 1}}, tmp_path / "run.ckpt")
    found = read_weights(tmp_path / "run.ckpt")
    for key, value in state.items():
        torch.testing.assert_close(found[key], value.detach())
    assert not found["parameter"].requires_grad


def test_wrappers_leave_no_trace_in_names(tmp_path: Path) -> None:
    torch.save({"module._orig_mod." + key: value for key, value in STATE.items()}, tmp_path / "run.pth")
    assert_state(read_weights(tmp_path / "run.pth"))
    torch.save(STATE | {"module.layer.bias": torch.ones(2)}, tmp_path / "run.pth")
    with pytest.raises(WeightsError, match="with and without a wrapper's prefix"):
        read_weights(tmp_path / "run.pth")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html><title>Virus scan warning</title></html>", "an HTML or XML page"),
        (b"\n <html>", "an HTML or XML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 547119128\n",
         "a git-lfs pointer of 547,119,128 bytes: run git lfs pull"),
        (b'{"error": "not found"}', "JSON text"),
        (gzip.compress(b"x", mtime=0), "a gzip archive: unpack it first"),
        (b"hello", "not a file of tensors"),
        (b"\x80\x02}q\x00.", "it is empty|not a file of tensors"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["run.pth", "model.safetensors"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, cause: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    if name == "model.safetensors" and content[:1] in (b"h", b"\x80"):
        cause = "not a safetensors file"
    with pytest.raises(WeightsError, match=cause) as caught:
        read_weights(tmp_path / name)
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_download_that_stopped_is_named(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "run.pth")
    content = (tmp_path / "run.pth").read_bytes()
    (tmp_path / "run.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"run\.pth: cut short: [\d,]+ bytes"):
        read_weights(tmp_path / "run.pth")
    save_file(STATE, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-3])
    with pytest.raises(WeightsError, match="not a safetensors file, or cut short"):
        read_weights(tmp_path / "model.safetensors")


def test_archives_and_programs_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=r"a zip archive that is no PyTorch checkpoint \(holds readme\.txt\)"):
        read_weights(tmp_path / "weights.pth")
    with zipfile.ZipFile(tmp_path / "program.pth", "w") as archive:
        archive.writestr("program/constants.pkl", b"")
        archive.writestr("program/data.pkl", b"")
    with pytest.raises(WeightsError, match="a TorchScript program, which runs code"):
        read_weights(tmp_path / "program.pth")
    with pytest.raises(WeightsError, match="a folder, not a file"):
        read_weights(tmp_path)


@pytest.mark.parametrize("document", [torch.nn.Linear(2, 2), {"state_dict": torch.nn.Linear(2, 2)}])
def test_a_pickled_model_is_named_by_its_class(tmp_path: Path, document: object) -> None:
    torch.save(document, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"class torch\.nn\.modules\.linear\.Linear.*: save its state_dict\(\)"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize("value", [np.ones(2), 3, "text", None])
def test_a_state_dict_with_something_else_in_it_names_it(tmp_path: Path, value: object) -> None:
    torch.save({"state_dict": STATE | {"strange": value}}, tmp_path / "run.pth")
    with pytest.raises(WeightsError, match="no 'state_dict' of tensors in it \\('strange' is a "):
        read_weights(tmp_path / "run.pth")


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_read_through_their_index(tmp_path: Path, ending: str) -> None:
    files = {"layer.weight": f"model-00001-of-00002.{ending}", "layer.bias": f"model-00002-of-00002.{ending}"}
    for key, name in files.items():
        content = {key: STATE[key]}
        save_file(content, tmp_path / name) if ending == "safetensors" else torch.save(content, tmp_path / name)
    index = tmp_path / f"model.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert_state(read_shards(index))
    index.write_text(json.dumps({"weight_map": files | {"layer.scale": files["layer.bias"]}}))
    with pytest.raises(WeightsError, match=rf"model-00002-of-00002\.{ending}: lacks layer\.scale"):
        read_shards(index)
    (tmp_path / files["layer.bias"]).unlink()
    with pytest.raises(WeightsError, match=rf"model-00002-of-00002\.{ending}: no such file"):
        read_shards(index)
    index.write_text(json.dumps({"weight_map": {"layer.bias": "../other.bin"}}))
    with pytest.raises(WeightsError, match="not the name of a file beside it"):
        read_shards(index)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(value: float) -> None:
    with pytest.raises(WeightsError, match=r"run\.pth: not a finite number in layer\.bias"):
        check_finite(STATE | {"layer.bias": torch.tensor([1.0, value])}, "run.pth")
    check_finite(STATE, "run.pth")
