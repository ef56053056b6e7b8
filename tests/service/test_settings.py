"""Where settings come from, and which source wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPESERVE_REPOSITORY", "/models")


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("port: 1\nmax_boxes: 1\nmax_queue: 1\n")
    monkeypatch.setenv("CAPESERVE_MAX_BOXES", "2")
    monkeypatch.setenv("CAPESERVE_MAX_QUEUE", "2")
    settings = load_settings(config, {"max_queue": "3", "port": None})
    assert (settings.port, settings.max_boxes, settings.max_queue) == (1, 2, 3)


def test_toml_says_the_same_as_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('max_image_bytes = "1MiB"\nproviders = ["CPUExecutionProvider"]\n')
    (tmp_path / "a.yaml").write_text("max_image_bytes: 1MiB\nproviders: [CPUExecutionProvider]\n")
    assert load_settings(tmp_path / "a.toml") == load_settings(tmp_path / "a.yaml")
    assert load_settings(tmp_path / "a.toml").max_image_bytes == 2**20


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    assert load_settings(tmp_path / "a.yaml") == load_settings()


def test_variables_that_kubernetes_makes_up_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPESERVE_PORT", "tcp://10.0.0.1:50051")
    assert load_settings().port == 50051


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.yaml", "prot: 1", "prot"),
        ("a.yaml", "port: many", "port"),
        ("a.yaml", "port: 70000", "port"),
        ("a.yaml", "- port", "list"),
        ("a.yaml", "a: [", "a.yaml"),
        ("a.toml", "a = ", "a.toml"),
        ("a.ini", "port=1", "a.ini"),
        ("a.yaml", "max_image_bytes: 1GiB", "max_message_bytes"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=complaint) as caught:
        load_settings(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml")


def test_a_missing_repository_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPESERVE_REPOSITORY")
    with pytest.raises(SettingsError, match=r"--repository.*CAPESERVE_REPOSITORY"):
        load_settings()


def test_a_bad_environment_variable_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPESERVE_PROVIDERS", "CPU")
    with pytest.raises(SettingsError, match="providers") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_the_log_line_has_every_setting_and_no_password() -> None:
    line = load_settings(flags={"registry": "redis://user:secret@host:6379/0"}).describe()
    assert "secret" not in line
    assert "registry=redis://***@host:6379/0" in line
    assert "port=50051" in line
    assert "\n" not in line
