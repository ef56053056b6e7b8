"""The committed stubs are what the protos say, and the protos are what the field expects."""

from __future__ import annotations

import filecmp
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_committed_stubs_are_what_the_protos_generate(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "protos" / "generate.py"), "--output", str(tmp_path)], check=True)
    fresh, committed = tmp_path / "cape" / "v1", ROOT / "cape" / "v1"
    names = sorted(path.name for path in fresh.iterdir())
    assert names == sorted(path.name for path in committed.iterdir() if "_pb2" in path.name or path.suffix == ".json")
    assert filecmp.cmpfiles(fresh, committed, names, shallow=False) == (names, [], [])


def test_the_protos_pass_bufs_standard_lint() -> None:
    buf = Path(sys.executable).with_name("buf")
    answer = subprocess.run([str(buf), "lint"], cwd=ROOT / "protos", capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
