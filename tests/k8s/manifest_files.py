"""Where the files of k8s/ lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
RULES = K8S / "components" / "monitoring" / "prometheus_rule.yaml"
DASHBOARD = K8S / "components" / "monitoring" / "dashboard.json"
OVERLAYS = tuple(sorted(path.name for path in (K8S / "overlays").iterdir()))
