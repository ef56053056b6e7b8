"""`capeserve serve` has a flag for everything that can be set."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import service.server
from cli.serve import serve
from service.settings import Settings


def test_every_setting_is_a_flag_with_an_explanation() -> None:
    output = " ".join(CliRunner().invoke(serve, ["--help"]).output.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in output
        assert field.description is not None
        assert field.description.split(";")[0] in output.replace("- ", "-")


def test_flags_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    async def run(settings: Settings) -> bool:
        seen.append(settings)
        return True

    monkeypatch.setattr(service.server, "serve", run)
    arguments = ["--repository", "/models", "--port", "7", "--max-image-bytes", "1MiB", "--no-reflection"]
    arguments += ["--providers", "CUDAExecutionProvider", "--providers", "CPUExecutionProvider"]
    result = CliRunner().invoke(serve, arguments, env={"CAPESERVE_MAX_BOXES": "9"})
    assert result.exit_code == 0, result.output
    (settings,) = seen
    assert (settings.port, settings.max_image_bytes, settings.max_boxes) == (7, 2**20, 9)
    assert not settings.reflection
    assert settings.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
