"""Renders the kustomize overlays into the Helm chart: `python k8s/chart/build.py --kubectl kubectl`.

Overlays are the one source of the manifests; the chart applies its values to them. A test renders both and compares.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

OVERLAYS = Path(__file__).resolve().parents[1] / "overlays"
OUTPUT = Path(__file__).resolve().parent / "manifests"
PRESETS = ("cpu", "gpu", "secure")


def main() -> None:
    """Writes one file a preset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubectl", default="kubectl", help="a kubectl whose kustomize is 5 or newer")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    for preset in PRESETS:
        command = [arguments.kubectl, "kustomize", str(OVERLAYS / preset)]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        (arguments.output / f"{preset}.yaml").write_text(finished.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()
