"""Fixtures of the service's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from tests.service.live_server import LiveServer, settings_for

Serving = Callable[[Path], Settings]
"""Repository → settings of a server of it, with one engine or another."""


@pytest.fixture(scope="module", params=["onnxruntime", "triton"])
def serving(request: pytest.FixtureRequest) -> Serving:
    """What is tested with it is tested with every engine: the API, its errors and its answers are the same."""
    if request.param == "onnxruntime":
        return settings_for
    triton = request.getfixturevalue("triton")
    return lambda repository: settings_for(repository, engine="triton", triton_url=triton.grpc)


@pytest.fixture(scope="module")
def live(tiny_repository: Path, serving: Serving) -> Iterator[LiveServer]:
    """A server of the tiny model that the tests of a file share."""
    with LiveServer(serving(tiny_repository)) as server:
        yield server
