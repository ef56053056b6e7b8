from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.service.live_server import LiveServer, settings_for

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def target(tiny_repository: Path) -> Iterator[str]:
    """A server of the tiny model."""
    with LiveServer(settings_for(tiny_repository)) as live:
        yield live.server.target


@pytest.fixture
def capeserve(target: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command `capeserve` against the server."""
    monkeypatch.setenv("CAPESERVE_TARGET", target)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def examples() -> Path:
    return EXAMPLES
