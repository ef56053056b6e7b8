"""The command line's entrance: cheap, lazy, and clear about what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from cape import __version__
from cli.main import COMMANDS, main

HEAVY = {"torch", "transformers", "onnxruntime", "cv2", "grpc", "numpy"}


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cli.main import main; main(['--help'], standalone_mode=False); "
        f"loaded = {HEAVY!r} & set(sys.modules); sys.exit(f'loaded: {{loaded}}' if loaded else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"capeserve, version {__version__}\n"


def test_an_unknown_command_is_named() -> None:
    result = CliRunner().invoke(main, ["fly"])
    assert result.exit_code == 2
    assert "fly" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cli.export", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in [name for name in sys.modules if name.split(".")[0] in {"export"}]:
        monkeypatch.delitem(sys.modules, module)
    result = CliRunner().invoke(main, ["export", "--checkpoint", "x", "--output", "y"])
    assert result.exit_code == 1
    assert "pip install 'capeserve[export]'" in result.output
