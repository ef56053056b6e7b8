"""Writes the Grafana dashboard: `python k8s/dashboard/build.py` (or `make dashboard`).

A test builds it again and compares it with the committed file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from panels import ROWS, TOP, Panel, Query

OUTPUT = Path(__file__).resolve().parents[1] / "components" / "monitoring" / "dashboard.json"

WIDTH, STAT_HEIGHT, ROW_HEIGHT = 24, 3, 6
"""Units of Grafana's grid: the dashboard fits one screen of 1080 lines."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}

SECONDARY_UNITS = {
    "batch": "short",
    "cores": "none",
    "errors/s": "reqps",
    "paper": "",
    "refused": "percentunit",
    "starts": "short",
}
"""Last words of legends whose curves are dashed and use the right axis in this unit; empty: the panel's own axis."""


def dashboard() -> dict[str, Any]:
    """Returns the dashboard as Grafana imports it."""
    panels = []
    for index, panel in enumerate(TOP):
        width = WIDTH // len(TOP)
        panels.append(_panel(panel, len(panels) + 1, index * width, 0, width, STAT_HEIGHT))
    for row, members in enumerate(ROWS):
        width = WIDTH // len(members)
        for column, panel in enumerate(members):
            y = STAT_HEIGHT + row * ROW_HEIGHT
            panels.append(_panel(panel, len(panels) + 1, column * width, y, width, ROW_HEIGHT))
    return {
        "uid": "capeserve",
        "title": "capeserve",
        "tags": ["capeserve"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"},
                _variable("namespace", "label_values(capeserve_build_info, namespace)"),
                _variable("pod", 'label_values(capeserve_build_info{namespace=~"$namespace"}, pod)'),
            ]
        },
        "panels": panels,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, number: int, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "targets": [_target(query, index) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": [_secondary(*item) for item in _dashed(panel)]},
    }
    if panel.kind == "stat":
        made["options"] = {
            "colorMode": "background" if panel.red_above is not None or panel.red_below is not None else "value",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"]},
        }
    else:
        made["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return made


def _target(query: Query, index: int) -> dict[str, Any]:
    letter = chr(ord("A") + index)
    return {"refId": letter, "datasource": SOURCE, "expr": query.expression, "legendFormat": query.legend or letter}


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.red_above is not None:
        steps: list[dict[str, Any]] = [
            {"color": "green", "value": None},
            {"color": "red", "value": panel.red_above},
        ]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    elif panel.red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal"} if panel.stacked else {"mode": "none"}
        defaults["custom"] = {"fillOpacity": 20 if panel.stacked else 0, "lineWidth": 1, "stacking": stacking}
    return defaults


def _dashed(panel: Panel) -> list[tuple[str, str]]:
    """Last word of the legend and unit of each dashed query."""
    words = [query.legend.rpartition(" ")[2] for query in panel.queries]
    return [(word, SECONDARY_UNITS[word]) for word in words if word in SECONDARY_UNITS]


def _secondary(word: str, unit: str) -> dict[str, Any]:
    properties: list[dict[str, Any]] = [
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 6]}},
    ]
    if unit:
        properties += [{"id": "unit", "value": unit}, {"id": "custom.axisPlacement", "value": "right"}]
    return {"matcher": {"id": "byRegexp", "options": f"/ {word}$/"}, "properties": properties}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.parse_args().output.write_text(
        json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
