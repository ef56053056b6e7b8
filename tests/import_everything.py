"""Imports every module of the project; run by lower_bounds.sh in an environment with the lowest versions."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

PACKAGES = ("cape", "export", "service", "benchmarks", "gateway", "cli")

NEED_OTHERS = {
    "export.triton.local.backend": "runs inside Triton only",
    "export.tensorrt.runtime": "needs TensorRT",
}
"""Modules that cannot be imported here → why."""


def main() -> int:
    """Returns the exit code: 1 if a module cannot be imported."""
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root))
    failed = imported = 0
    for package in PACKAGES:
        if not (root / package).is_dir():
            continue
        names = [module.name for module in pkgutil.walk_packages([str(root / package)], f"{package}.", lambda _: None)]
        for name in (package, *names):
            if name in NEED_OTHERS:
                continue
            try:
                importlib.import_module(name)
                imported += 1
            except Exception as error:
                failed += 1
                print(f"{name}: {type(error).__name__}: {error}")
    print(f"{imported} modules imported, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
