"""`capeserve data`: the contact sheet."""

from __future__ import annotations

from click.testing import CliRunner
from PIL import Image

from cli.main import main


def run(*arguments: object):
    return CliRunner().invoke(main, ["data", *(str(argument) for argument in arguments)])


def test_preview_writes_a_contact_sheet_and_says_how_fast_it_was_drawn(tmp_path):
    file = tmp_path / "sheet.png"
    result = run("preview", "--split", "val", "--objects", "2", "--output", file)
    assert result.exit_code == 0, result.output
    assert "synthetic (val)" in result.stdout
    assert "images/s" in result.stdout
    with Image.open(file) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 300
        assert len(sheet.convert("L").getcolors(256)) > 50


def test_preview_shows_the_wanted_categories_only(tmp_path):
    file = tmp_path / "sheet.png"
    result = run("preview", "--split", "test", "--category", "horse body", "--objects", "1", "--output", file)
    assert result.exit_code == 0, result.output
    assert "1 categories" in result.stdout


def test_an_unknown_category_is_refused_with_those_that_exist(tmp_path):
    result = run("preview", "--split", "test", "--category", "dragon", "--output", tmp_path / "sheet.png")
    assert result.exit_code == 2
    assert "horse body" in result.stderr


def test_a_picture_that_cannot_be_written_is_one_clear_line(tmp_path):
    result = run("preview", "--split", "val", "--objects", "1", "--output", tmp_path / "sheet.nonsense")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
