"""Generates the Python stubs of cape.v1 and their comments as JSON: `python protos/generate.py` (or `make protos`).

A test runs the same into an empty folder and compares, so the committed stubs cannot drift from the protos.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent

COMMENTS = "comments.json"
"""Comment of every message, field, enum value, service and method, by full name. Generated code leaves them out."""


def generate(output: Path) -> None:
    """Writes messages, services, their type stubs and `comments.json` below `output`, as `cape/v1/*`.

    Raises:
        RuntimeError: protoc refused; it has printed why.
    """
    sources = sorted(str(path) for path in (PROTOS / "cape" / "v1").glob("*.proto"))
    # protoc looks its plugins up on PATH, where an environment that is not activated is not.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    arguments = [
        "protoc",
        f"--proto_path={PROTOS}",
        f"--proto_path={PROTOS / 'third_party'}",
        f"--proto_path={Path(protoc.__file__).parent / '_proto'}",
        f"--python_out={output}",
        f"--grpc_python_out={output}",
        f"--mypy_out=quiet:{output}",
        f"--mypy_grpc_out=quiet:{output}",
        "--include_source_info",
    ]
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder) / "descriptors.bin"
        if protoc.main([*arguments, f"--descriptor_set_out={descriptors}", *sources]) != 0:
            raise RuntimeError("protoc failed")
        described = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    comments = {name: comment for file in described.file for name, comment in _comments(file)}
    text = json.dumps(dict(sorted(comments.items())), indent=1, ensure_ascii=False)
    (output / "cape" / "v1" / COMMENTS).write_text(f"{text}\n", encoding="utf-8")
    for stub in (output / "cape" / "v1").glob("*_pb2_grpc.py"):
        if "Servicer(object)" not in stub.read_text():  # a file of messages only: the plugins write empty stubs
            stub.unlink()
            stub.with_suffix(".pyi").unlink()


def _comments(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Full names and comments of what a file defines."""
    for location in file.source_code_info.location:
        comment = " ".join((location.leading_comments or location.trailing_comments).split())
        if comment and location.path and len(location.path) % 2 == 0:  # odd: "syntax" and other statements
            yield ".".join((file.package, *_names(file, location.path))), comment


def _names(element: Any, path: Sequence[int]) -> Iterator[str]:
    """Names along a path of a descriptor: field numbers and indices in turn (see descriptor.proto)."""
    for number, index in zip(path[::2], path[1::2], strict=True):
        element = getattr(element, element.DESCRIPTOR.fields_by_number[number].name)[index]
        yield element.name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PROTOS.parent)
    try:
        generate(parser.parse_args().output)
    except RuntimeError as error:
        sys.exit(str(error))
