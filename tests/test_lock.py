"""The lock file that containers install from: all of it pinned, by hash, and what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
ENTRIES = [entry for entry in re.split(r"\n(?=\S)", LOCK.strip()) if entry]


def test_everything_is_pinned_by_hash_and_nothing_says_where_it_came_from() -> None:
    for entry in ENTRIES:
        first, *hashes = entry.splitlines()
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+", first), first
        assert hashes
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes)
    assert not re.search(r"://|--index|--find-links|--trusted-host|@ ", LOCK)


def test_it_holds_what_the_service_needs_in_versions_that_it_takes() -> None:
    pinned: dict[str, list[str]] = {}
    for entry in ENTRIES:
        requirement = Requirement(entry.splitlines()[0].removesuffix("\\").strip())
        (specifier,) = requirement.specifier
        pinned.setdefault(canonicalize_name(requirement.name), []).append(specifier.version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["redis"], *extras["triton"]):
        wanted = Requirement(text)
        versions = pinned[canonicalize_name(wanted.name)]
        assert all(wanted.specifier.contains(version) for version in versions), f"{text}: run make lock"
    assert "torch" not in pinned
