"""Fixtures of the service's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.live_server import LiveServer, settings_for


@pytest.fixture(scope="module")
def live(tiny_repository: Path) -> Iterator[LiveServer]:
    """A server of the tiny model that the tests of a file share."""
    with LiveServer(settings_for(tiny_repository)) as server:
        yield server
