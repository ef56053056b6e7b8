"""Importing is cheap where it must be, and the service needs no torch."""

from __future__ import annotations

import subprocess
import sys


def loaded_after(statement: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_cape_brings_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "numpy", "cv2", "grpc", "onnxruntime", "pydantic"}
    assert not heavy & loaded_after("import cape")


def test_the_client_and_the_server_need_neither_torch_nor_transformers() -> None:
    for statement in ("import cape.client", "import service.server", "import cli.main, cli.serve, cli.estimate"):
        extras = {"torch", "transformers", "onnx", "safetensors", "tritonclient"}
        assert not extras & loaded_after(statement), statement


def test_a_local_triton_is_started_by_the_base_install() -> None:
    statement = "import cli.triton, export.triton.local.server, export.triton.local.environment"
    assert not {"torch", "onnx", "tritonclient"} & loaded_after(statement)
