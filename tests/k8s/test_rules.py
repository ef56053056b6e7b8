"""The rules pass promtool's checks and unit tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import yaml

from tests.k8s.manifest_files import DASHBOARD, K8S, ROOT, RULES

RULES_TEST = K8S / "components" / "monitoring" / "rules_test.yaml"


def rules() -> list[dict]:
    """Every rule."""
    return [rule for group in yaml.safe_load(RULES.read_text())["spec"]["groups"] for rule in group["rules"]]


def alerts() -> set[str]:
    """Names of the alerts."""
    return {rule["alert"] for rule in rules() if "alert" in rule}


def test_promtool_accepts_the_rules(promtool: str, rules_file: Path) -> None:
    subprocess.run([promtool, "check", "rules", "--lint-fatal", str(rules_file)], check=True)


def test_promtools_unit_tests_pass(promtool: str, rules_file: Path) -> None:
    shutil.copy(RULES_TEST, rules_file.parent)
    finished = subprocess.run(
        [promtool, "test", "rules", RULES_TEST.name],
        cwd=rules_file.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout


def test_every_alert_is_tested_firing_and_silent() -> None:
    cases = [
        case for test in yaml.safe_load(RULES_TEST.read_text())["tests"] for case in test.get("alert_rule_test", [])
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts()
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts()


def test_every_alert_links_to_a_section_that_says_what_to_do_and_no_section_lacks_an_alert() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=^#|\Z)", guide, re.MULTILINE | re.DOTALL))
    described = {name for name in sections if name.startswith(("Capeserve", "Triton"))}
    assert described == alerts()
    assert all(len(sections[name].split()) > 25 for name in described), "a section says what it means and what to do"
    for rule in rules():
        if "alert" in rule:
            path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            assert path.endswith("/docs/operations.md")
            assert anchor == rule["alert"].lower(), "GitHub's anchor of the section"


def test_every_rule_keeps_the_namespace_and_only_outages_page() -> None:
    for rule in rules():
        groupings = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
        assert all("namespace" in labels for labels in groupings), rule["expr"]
        assert not re.search(r"\b(sum|count|max|min|avg)\s*\((?!.*\bby\b)", rule["expr"].replace("\n", " ")), rule[
            "expr"
        ]
    paging = {rule["alert"] for rule in rules() if rule.get("labels", {}).get("severity") == "critical"}
    assert paging == {
        *("CapeserveAbsent", "CapeserveAvailabilityFastBurn", "CapeserveLatencyFastBurn"),
        *("CapeserveNoEngine", "CapeserveRegistryErrors", "CapeserveRegistryAway"),
    }


def test_rules_and_panels_name_only_metrics_that_are_documented() -> None:
    documented = set(re.findall(r"`((?:capeserve|process|nv)_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    text = "".join(rule["expr"] for rule in rules()) + DASHBOARD.read_text()
    used = set(re.findall(r"\b((?:capeserve|process|nv)_\w+)\b", text))
    assert {re.sub("_(bucket|sum|count)$", "", name) if name not in documented else name for name in used} <= documented
    assert set(re.findall(r"\bcapeserve:[\w:]+", text)) <= recorded
