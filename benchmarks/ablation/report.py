"""Tables and plot of an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.ablation.measurement import PAPER, Run, Summary, summarise
from benchmarks.harness.tables import NONE, ReportTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("0.05", "0.1", "0.2")


def document(runs: Sequence[Run]) -> dict[str, Any]:
    """All numbers as JSON."""
    return {"runs": [asdict(run) for run in runs], "summaries": [asdict(summary) for summary in summarise(runs)]}


def tables(runs: Sequence[Run]) -> list[ReportTable]:
    """Means and spreads, and every single run."""
    if not runs:
        return []
    summaries = summarise(runs)
    comparison = ReportTable(
        title="PCK on unseen synthetic categories, %: mean ± sample standard deviation over seeds",
        header=("system", "seeds", *(f"PCK@{threshold}" for threshold in SHOWN), "Table 6, PCK@0.2 on MP-100"),
        rows=tuple(
            (
                summary.system,
                str(summary.runs),
                *(f"{100 * summary.mean[t]:.1f} ± {100 * summary.spread[t]:.1f}" for t in SHOWN),
                f"{PAPER[summary.system]:.2f}" if summary.system in PAPER else NONE,
            )
            for summary in summaries
        ),
        notes=(
            "Same towers, data, budget and seeds; only the system differs. Runs of equal seeds see the same episodes.",
            *_verdicts(runs),
            *_twins(runs),
        ),
    )
    single = ReportTable(
        title="Every run",
        header=("system", "seed", "steps", "minutes", "loss at the end", *(f"PCK@{threshold}" for threshold in SHOWN)),
        rows=tuple(
            (
                run.system,
                str(run.seed),
                str(run.steps),
                f"{run.minutes:.1f}",
                f"{run.loss:.3f}",
                *(f"{100 * run.pck[threshold]:.1f}" for threshold in SHOWN),
            )
            for run in runs
        ),
        notes=("Losses of different systems are sums over different numbers of pathways.",),
    )
    return [comparison, single]


def _verdicts(runs: Sequence[Run]) -> list[str]:
    """Whether fusion beats each single modality, seed by seed, as Table 6 claims."""
    found = {(run.system, run.seed): run.pck["0.2"] for run in runs}
    verdicts = []
    for fused in ("flf", "dlf"):
        for single in ("visual_only", "textual_only"):
            differences = [
                found[fused, run.seed] - run.pck["0.2"]
                for run in runs
                if run.system == single and (fused, run.seed) in found
            ]
            if differences:
                won = sum(difference > 0 for difference in differences)
                verdicts.append(
                    f"{fused} is ahead of {single} in {won} of {len(differences)} seeds, by "
                    f"{100 * sum(differences) / len(differences):+.1f} points on average (PCK@0.2)."
                )
    return verdicts


def _twins(runs: Sequence[Run]) -> list[str]:
    """Systems whose runs all equal another's: with the same encoders and head they are the same network."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for run in runs:
        found.setdefault(run.system, {})[run.seed] = run.pck
    return [
        f"{second} and {first} came to the same in every run: with the same towers and the same head they are one "
        "network. What sets the published models apart is their towers."
        for index, first in enumerate(found)
        for second in list(found)[index + 1 :]
        if found[first] == found[second]
    ]


def draw(summaries: Sequence[Summary], figure: Figure) -> None:
    """Bars with their spread."""
    axes = figure.subplots()
    width = 0.8 / len(SHOWN)
    for index, threshold in enumerate(SHOWN):
        axes.bar(
            [position + (index - 1) * width for position in range(len(summaries))],
            [100 * summary.mean[threshold] for summary in summaries],
            width,
            yerr=[100 * summary.spread[threshold] for summary in summaries],
            capsize=3,
            label=f"PCK@{threshold}",
        )
    axes.set_xticks(range(len(summaries)), [summary.system for summary in summaries])
    axes.set_ylabel("PCK on unseen synthetic categories, %")
    axes.legend()
    axes.grid(axis="y", alpha=0.3)
