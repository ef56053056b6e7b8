"""The base install is the client alone; every other command names the extra that it needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import cape
from service.engines.packages import check_one_onnxruntime
from service.errors import EngineError

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

MODULES = {
    "grpcio-reflection": "grpc_reflection",
    "grpcio-status": "grpc_status",
    "opencv-python-headless": "cv2",
    "prometheus-client": "prometheus_client",
    "pydantic-settings": "pydantic_settings",
}
"""Packages whose module has another name."""


def extras_closure(*extras: str) -> set[str]:
    """Names of the packages that extras bring by themselves."""
    found: set[str] = set()
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(text)
            found |= extras_closure(*requirement.extras) if requirement.name == "capeserve" else {requirement.name}
    return found


def without(packages: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in an interpreter in which packages are not installed."""
    modules = sorted(MODULES.get(package, package.replace("-", "_")) for package in packages)
    hidden = f"import sys\nsys.modules.update(dict.fromkeys({modules}))\n"
    return subprocess.run([sys.executable, "-c", hidden + code], capture_output=True, text=True, check=False, cwd=ROOT)


EVERYTHING_ELSE = extras_closure(*(name for name in PROJECT["optional-dependencies"] if name not in ("dev", "docs")))
BASE = {Requirement(text).name for text in PROJECT["dependencies"]}


def test_the_base_install_runs_the_client_and_its_commands() -> None:
    done = without(
        EVERYTHING_ELSE - BASE,
        "import cape.client, cape.coco, cape.drawing, cli.estimate, cli.support\n"
        "from cli.main import main\nmain(['estimate', '--help'])",
    )
    assert done.returncode == 0, done.stderr
    assert "--support" in done.stdout


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["serve", "--repository", "none"], "serve"),
        (["export", "--checkpoint", "none", "--output", "none"], "export"),
        (["train", "--config", "configurations/training/demonstration.yaml"], "train"),
        (["evaluate", "--checkpoint", "examples/checkpoint", "--data", "synthetic"], "models"),
        (["demo"], "demo,export,serve"),
        (["bench", "latency", "--repository", "examples"], "bench,serve"),
        (["playground"], "gateway"),
    ],
)
def test_a_command_without_its_extra_names_it(command: list[str], extra: str) -> None:
    done = without(EVERYTHING_ELSE - BASE, f"from cli.main import main\nmain({command})")
    assert done.returncode == 1
    assert f"pip install 'capeserve[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_extra_but_the_gpu_ones_brings_the_gpu_build_of_onnxruntime() -> None:
    both = {"onnxruntime", "onnxruntime-gpu"}
    found = {name: both & extras_closure(name) for name in PROJECT["optional-dependencies"]}
    assert {name for name, packages in found.items() if "onnxruntime-gpu" in packages} == {
        "serve-gpu",
        "export-gpu",
        "tensorrt",
    }
    assert not [name for name, packages in found.items() if packages == both]


def test_both_builds_of_onnxruntime_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_one_onnxruntime()
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-1.30.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.30.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        EngineError, match=r"both installed.*pip uninstall --yes onnxruntime onnxruntime-gpu.*serve-gpu"
    ):
        check_one_onnxruntime()


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["version"] == cape.__version__
    assert f"## {cape.__version__}" in (ROOT / "CHANGELOG.md").read_text()
