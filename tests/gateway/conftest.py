"""A real server of the tiny model, and a real gateway before it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.server import running_gateway
from gateway.settings import GatewaySettings
from tests.service.live_server import LiveServer, settings_for

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def http(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """One HTTP call; errors are answers too."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


def post(url: str, content: object) -> Answer:
    return http(url, "POST", json.dumps(content).encode(), content_type="application/json")


def form(url: str, parts: dict[str, str | Path | bytes]) -> Answer:
    """Sends a multipart form: paths and bytes as files, strings as text."""
    boundary = "jkl3v9xq"
    lines = b""
    for name, value in parts.items():
        lines += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(value, str):
            lines += b"\r\n\r\n" + value.encode()
        else:
            content = value if isinstance(value, bytes) else value.read_bytes()
            lines += b'; filename="f"\r\nContent-Type: application/octet-stream\r\n\r\n' + content
        lines += b"\r\n"
    body = lines + f"--{boundary}--\r\n".encode()
    return http(url, "POST", body, content_type=f"multipart/form-data; boundary={boundary}")


@pytest.fixture(scope="package")
def server(tiny_repository: Path) -> Iterator[LiveServer]:
    with LiveServer(settings_for(tiny_repository)) as running:
        yield running


@pytest.fixture(scope="package")
def gateway(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a gateway, without the slash."""
    state = tmp_path_factory.mktemp("state")
    with running_gateway(GatewaySettings(server.server.target, max_body_bytes=8 * 2**20, state=state)) as url:
        yield url.rstrip("/")


@pytest.fixture(scope="package")
def support(gateway: str) -> str:
    """Name of a registered support: the cat of the examples."""
    answer = form(f"{gateway}/v1/supports", {"request": json.dumps(CAT), "examples[0].image": EXAMPLES / "chelsea.jpg"})
    assert answer.status == 200, answer.body
    name: str = answer.json["support"]["name"]
    return name


CAT = {
    "category": "cat",
    "keypoints": [{"name": "left eye"}, {"name": "right eye"}, {"name": "nose"}],
    "skeleton": [{"start": 0, "end": 2}, {"start": 1, "end": 2}],
    "examples": [
        {
            "box": {"x": 20, "width": 380, "height": 296},
            "keypoints": [{"x": 314.5, "y": 131}, {"x": 173, "y": 110}, {"x": 267, "y": 240}],
        }
    ],
}
"""A support without its image, as JSON."""
