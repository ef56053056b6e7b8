"""The dashboard is what its panels say, and fits one screen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.k8s.manifest_files import DASHBOARD, K8S

SCREEN_ROWS = 27
"""Rows of Grafana's grid (30 pixels and a gap of 8) that 1080 lines show below its head."""


def panels() -> list[dict]:
    return json.loads(DASHBOARD.read_text())["panels"]


def test_the_committed_dashboard_is_what_its_panels_make(tmp_path: Path) -> None:
    built = tmp_path / "dashboard.json"
    subprocess.run([sys.executable, str(K8S / "dashboard" / "build.py"), "--output", str(built)], check=True)
    assert built.read_text() == DASHBOARD.read_text()


def test_it_fits_one_screen_without_gaps_or_overlaps() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & own, f"{panel['title']} lies on another panel"
        cells |= own
    height = max(y for _, y in cells) + 1
    assert cells == {(x, y) for x in range(24) for y in range(height)}
    assert height <= SCREEN_ROWS


def test_every_panel_says_how_to_read_it_and_in_which_unit() -> None:
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_everything_that_the_issue_of_an_on_call_person_may_be_is_on_it() -> None:
    text = DASHBOARD.read_text()
    for metric in (
        *("capeserve_requests_total", "capeserve_request_duration_seconds", "capeserve_stage_duration_seconds"),
        *(
            "capeserve_queue_depth",
            "capeserve_queue_wait_seconds",
            "capeserve_batch_size",
            "capeserve_cache_hits_total",
        ),
        *("capeserve_engine_healthy", "capeserve_engine_errors_total", "capeserve_registry_operations_total"),
        *("capeserve_model_speed_ratio", "capeserve_model_frames_per_second", "process_resident_memory_bytes"),
    ):
        assert metric in text, metric
