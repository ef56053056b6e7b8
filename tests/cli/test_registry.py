"""Backups of registered supports, and printing of names that hold terminal escapes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from click.testing import CliRunner

from cape.terminal import printable
from cli.main import main
from service.supports.sqlite import SqliteRegistry
from tests.service.messages import cat_support


def test_a_backup_restores_what_is_missing_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    support = cat_support()
    support.name = "supports/" + "1" * 32

    async def create() -> None:
        registry = SqliteRegistry(tmp_path / "old.sqlite3")
        await registry.create("acme", support)
        await registry.close()

    asyncio.run(create())
    backup = tmp_path / "backup.sqlite3"
    written = CliRunner().invoke(
        main, ["registry", "backup", "--registry", f"sqlite:///{tmp_path}/old.sqlite3", str(backup)]
    )
    assert "1 supports written" in written.output, written.output
    assert backup.stat().st_mode & 0o077 == 0
    for count in (1, 0):
        arguments = ["registry", "restore", "--registry", f"sqlite:///{tmp_path}/new.sqlite3", str(backup)]
        assert f"{count} supports restored" in CliRunner().invoke(main, arguments).output


def test_characters_that_a_terminal_acts_on_are_escaped_and_all_others_stay() -> None:
    assert printable("left ear") == "left ear"
    assert printable("Löwe 獅子 🦁") == "Löwe 獅子 🦁"
    assert printable("a\x1b[31mred\x07\x9b") == "a\\x1b[31mred\\x07\\x9b"
    assert printable("a\u202eb\nc") == "a\\u202eb\\nc"
