"""The examples of docs/api.md and docs/client.md run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format, message_factory
from grpc_health.v1 import health_pb2

from cape.v1 import model_service_pb2, pose_service_pb2, support_service_pb2
from tests.conftest import ExportedCapeLlm
from tests.service.live_server import LiveServer, settings_for

ROOT = Path(__file__).resolve().parents[3]


def blocks(language: str, page: str = "api.md") -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[LiveServer]:
    with LiveServer(settings_for(tiny_repository)) as live:
        yield live


def run(command: list[str], **options: object) -> str:
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_client_example_locates_every_keypoint(server: LiveServer) -> None:
    code = blocks("python")[0].replace("localhost:50051", server.server.target)
    lines = run([sys.executable, "-c", code]).splitlines()
    assert len(lines) > 5
    assert all(re.fullmatch(r"[\w ]+: -?\d+, -?\d+ \(\d\.\d\d\)", line) for line in lines)


def test_the_stub_example_answers_with_its_request_id(server: LiveServer) -> None:
    code = blocks("python")[1].replace("localhost:50051", server.server.target)
    model, identity = run([sys.executable, "-c", code]).splitlines()
    assert re.fullmatch(r"models/flf \d+ ms", model)
    assert identity == "docs-1"


def test_the_example_of_a_language_model_hears_of_every_keypoint(tiny_capellm: ExportedCapeLlm) -> None:
    with LiveServer(settings_for(tiny_capellm.repository)) as live:
        code = blocks("python")[2].replace("localhost:50051", live.server.target)
        assert run([sys.executable, "-c", code]).splitlines() == ["all ('nose', 'left ear')"]


@pytest.mark.parametrize(
    ("example", "lines"),
    [(0, [r"\('right eye outer corner', "]), (1, [r"\[0\.", r"examples/.*jpg \(", r"examples/.*jpg \("]), (2, [])],
)
def test_the_examples_of_the_client_page_run(server: LiveServer, example: int, lines: list[str]) -> None:
    code = blocks("python", "client.md")[example].replace("localhost:50051", server.server.target)
    printed = run([sys.executable, "-c", code]).splitlines()
    assert len(printed) >= len(lines)
    for line, pattern in zip(printed, lines, strict=False):
        assert re.match(pattern, line), line


def test_there_is_no_python_example_that_is_not_run() -> None:
    assert len(blocks("python")) == 3
    assert len(blocks("python", "client.md")) == 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is missing: apt-get install nodejs npm")
def test_the_javascript_example_prints_its_keypoints(server: LiveServer, request: pytest.FixtureRequest) -> None:
    kept = Path(request.config.cache.mkdir("node"))
    packages = ["@grpc/grpc-js@1", "@grpc/proto-loader@0.8"]
    installed = subprocess.run(
        ["npm", "install", "--silent", "--prefix", str(kept), *packages], capture_output=True, text=True, check=False
    )
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install gRPC: {installed.stderr.strip()[-200:]}")
    (code,) = blocks("js")
    program = code.replace("localhost:50051", server.server.target)
    environment = {"NODE_PATH": str(kept / "node_modules"), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    lines = run(["node", "-e", program], env=environment).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["left eye", "nose"]


def test_what_grpcurl_sends_are_requests_of_methods_that_there_are() -> None:
    methods = {
        f"{service.full_name}/{method.name}": method.input_type
        for module in (pose_service_pb2, support_service_pb2, model_service_pb2, health_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    commands = "\n".join(blocks("sh"))
    called = re.findall(r"[\w.]+\.v1\.\w+/\w+", commands)
    assert len(called) == 4
    assert set(called) <= set(methods)
    bodies = re.findall(r"-d '(\{.*?\})' \S+ (\S+)", commands)
    bodies += [(body.replace("%s", "QUJD"), called[-1]) for body in re.findall(r"printf '(\{.*\})'", commands)]
    assert len(bodies) == 3
    for body, method in bodies:
        message = message_factory.GetMessageClass(methods[method])()
        json_format.ParseDict(json.loads(body), message)
        assert message.ByteSize()
