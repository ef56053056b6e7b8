"""The report of a soak, as JSON and Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.soak.run import Outcome


def document(outcome: Outcome, **about: Any) -> dict[str, Any]:
    """The outcome as JSON, after `about`: date, machine, command."""
    ledger = outcome.ledger
    kinds = sorted(set(ledger.sent) | set(ledger.wrong) | set(ledger.lost))
    refused: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
    for (kind, code), count in sorted(ledger.refused.items()):
        refused[kind][code] = count
    return {
        **about,
        "seconds": round(outcome.seconds, 1),
        "sent": ledger.sent.total(),
        "right": ledger.right.total(),
        "refused": ledger.refused.total(),
        "wrong": ledger.wrong.total(),
        "lost": ledger.lost.total(),
        "kinds": {
            kind: {
                "sent": ledger.sent[kind],
                "right": ledger.right[kind],
                "refused": refused[kind],
                "wrong": ledger.wrong[kind],
                "lost": ledger.lost[kind],
            }
            for kind in kinds
        },
        "faults": outcome.faults,
        "least_distance": outcome.least_distance,
        "troubles": ledger.troubles,
    }


def markdown(found: dict[str, Any]) -> str:
    """The same as Markdown."""
    verdict = "passed" if found["wrong"] == found["lost"] == 0 else "FAILED"
    lines = [
        f"# Soak: {verdict}",
        "",
        f"Mixed traffic of {found['callers']} callers to {found['replicas']} server(s), supports in "
        f"{'Redis' if found['redis'] else 'SQLite'}, for {found['seconds'] / 60:.1f} minutes. Meanwhile:",
        "",
        *(f"- {name}: {count} times" for name, count in found["faults"].items()),
        f"- {found['fault_rate']:.2%} of engine runs raised, hung, or answered NaN, a wrong shape or too few rows",
        "",
        "| | sent | answered right | refused with the right code | wrong | lost |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for kind, counts in found["kinds"].items():
        refused = ", ".join(f"{count} {code}" for code, count in counts["refused"].items()) or "0"
        lines.append(
            f"| {kind} | {counts['sent']} | {counts['right']} | {refused} | {counts['wrong']} | {counts['lost']} |"
        )
    lines += [
        f"| **all** | {found['sent']} | {found['right']} | {found['refused']} | {found['wrong']} | {found['lost']} |",
        "",
        f"An answer counts as right if no keypoint is further than 0.1 % of the image from an undisturbed server's "
        f"answer; two supports' answers for one image differ by {found['least_distance']:.2%} at least. UNAVAILABLE "
        "is right only while a server is disturbed or where its engine has failed, DEADLINE_EXCEEDED only where a "
        "caller was in a hurry or a server disturbed.",
        "",
    ]
    if found["troubles"]:
        lines += ["## What went wrong", "", *(f"- {trouble}" for trouble in found["troubles"]), ""]
    lines += [f"{found['repository']}; {found['machine']}; {found['date']}. `{found['command']}`", ""]
    return "\n".join(lines)


def write_results(output: Path, name: str, found: dict[str, Any]) -> list[Path]:
    """Writes `<name>.json` and `<name>.md`; returns them."""
    output.mkdir(parents=True, exist_ok=True)
    paths = [output / f"{name}.json", output / f"{name}.md"]
    paths[0].write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(found), encoding="utf-8")
    return paths
