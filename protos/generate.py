"""Generates the Python stubs of cape.v1: `python protos/generate.py` (or `make protos`).

A test runs the same into an empty folder and compares, so the committed stubs cannot drift from the protos.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent


def generate(output: Path) -> None:
    """Writes messages, services and their type stubs below `output`, as `cape/v1/*`.

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
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc failed")
    for stub in (output / "cape" / "v1").glob("*_pb2_grpc.py"):
        if "Servicer(object)" not in stub.read_text():  # a file of messages only: the plugins write empty stubs
            stub.unlink()
            stub.with_suffix(".pyi").unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PROTOS.parent)
    try:
        generate(parser.parse_args().output)
    except RuntimeError as error:
        sys.exit(str(error))
