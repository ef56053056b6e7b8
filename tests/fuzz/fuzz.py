"""Fuzzes one target with atheris, guided by coverage; needs `pip install atheris` (Linux, CPython up to 3.13).

    python -m tests.fuzz.fuzz image -max_total_time=300

What it finds is written to the current folder as crash-…; put that file into `tests/fuzz/corpus/<target>/`, where
`test_corpus.py` tries it for ever. The rest are libFuzzer's own options.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Runs until libFuzzer's limits, or a finding, end it."""
    with atheris.instrument_imports(include=["PIL", "yaml", "json", "cape", "service"]):
        from tests.fuzz.targets import TARGETS

    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"which target? {', '.join(TARGETS)}")
    # libFuzzer adds what is new to the first folder; the corpus in the repository stays as it is.
    found = tempfile.mkdtemp(prefix=f"fuzz_{name}_")
    arguments = [sys.argv[0], *sys.argv[2:], "-rss_limit_mb=4096", found, str(CORPUS / name)]
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
