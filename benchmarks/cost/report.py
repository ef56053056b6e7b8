"""The tables of `capeserve bench cost`, for a terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.cost.measurement import SYSTEMS, Sizes, SystemCost, measure_cost, published_configuration
from benchmarks.cost.table5 import TABLE_5_SIZES, Difference, differences, parameters_as_published
from benchmarks.harness.table5 import TABLE_5
from benchmarks.harness.tables import NONE, ReportTable, markdown_table
from cape.configuration import SystemName
from cape.manifest import Role

ROLES: dict[Role, str] = {
    "image_backbone": "image backbone",
    "text_encoder": "text encoder",
    "support_fusion": "support fusion",
    "pose_decoder": "pose decoder",
}


@dataclass(frozen=True, slots=True)
class CostReport:
    """Costs of every system.

    Attributes:
        sizes: what a request brings.
        costs: one of each system.
        differences: of the systems in Table 5, from our figures to the paper's.
    """

    sizes: Sizes
    costs: tuple[SystemCost, ...]
    differences: dict[SystemName, list[Difference]]


def measure_report(sizes: Sizes) -> CostReport:
    """Counts every system; takes seconds and needs no weights."""
    costs = tuple(measure_cost(published_configuration(system), sizes) for system in SYSTEMS)
    return CostReport(sizes, costs, {cost.system: differences(cost) for cost in costs if cost.system in TABLE_5})


def report_tables(report: CostReport) -> tuple[ReportTable, ...]:
    """Parameters, multiply-adds, and the differences from Table 5."""
    return _parameters(report), _multiply_adds(report), _way_to_table_5(report)


def _parameters(report: CostReport) -> ReportTable:
    return ReportTable(
        "Parameters, 10⁶",
        ("system", *ROLES.values(), "total", "with the unused classifier", "Table 5"),
        tuple(
            (
                cost.system,
                *(
                    f"{cost.components[role].parameters / 1e6:.3f}" if role in cost.components else NONE
                    for role in ROLES
                ),
                f"{cost.parameters / 1e6:.3f}",
                f"{parameters_as_published(cost) / 1e6:.3f}",
                f"{TABLE_5[cost.system].parameters:.3f}" if cost.system in TABLE_5 else NONE,
            )
            for cost in report.costs
        ),
        (
            "Swin V2-S and, where texts are read, gte-base. flf: support fusion and pose decoder share one projection "
            "(0.197), which counts in both and once in the total.",
            "Table 5 counts the backbone's 1000-class head (0.769), which the public code keeps and never runs.",
        ),
    )


def _multiply_adds(report: CostReport) -> ReportTable:
    sizes = report.sizes
    shots = "1 support image" if sizes.shots == 1 else f"{sizes.shots} support images"
    return ReportTable(
        f"Multiply-adds, 10⁹ ({sizes.keypoints} keypoints, texts of {sizes.tokens} tokens, {shots})",
        ("system", *ROLES.values(), "once per support", "per query", "both", "Table 5"),
        tuple(
            (
                cost.system,
                *(_giga(cost.multiply_adds(role)) if role in cost.components else NONE for role in ROLES),
                _giga(cost.per_support),
                _giga(cost.per_query),
                _giga(cost.uncached),
                f"{TABLE_5[cost.system].multiply_adds:.3f}" if cost.system in TABLE_5 else NONE,
            )
            for cost in report.costs
        ),
        (
            "A component's figure is one run: one image, all texts of a support, one support set, one query.",
            "Once per support: its images, its texts and their fusion, kept by the server. Per query: one backbone "
            "pass and the pose decoder, nothing else. The paper computes both every time.",
            f"{Sizes().tokens} tokens are a keypoint text of four words as CapeX's texts are, with its start and end "
            "mark. Every product of matrices counts, attention's too; the next table leads to Table 5's figures.",
        ),
    )


def _way_to_table_5(report: CostReport) -> ReportTable:
    costs = {cost.system: cost for cost in report.costs if cost.system in TABLE_5}
    reasons = [difference.reason for difference in next(iter(report.differences.values()))]
    rows = [("ours: once per support and per query", *(_giga(cost.uncached) for cost in costs.values()))]
    for index, reason in enumerate(reasons):
        deltas = (report.differences[system][index].multiply_adds for system in costs)
        rows.append((reason, *(f"{delta / 1e9:+.3f}" if delta else NONE for delta in deltas)))
    sums = (cost.uncached + _sum(report.differences[system]) for system, cost in costs.items())
    rows.append(("all of it together", *map(_giga, sums)))
    rows.append(("Table 5", *(f"{TABLE_5[system].multiply_adds:.3f}" for system in costs)))
    return ReportTable(
        "From these figures to Table 5, 10⁹ multiply-adds",
        ("", *costs),
        tuple(rows),
        (
            "Table 5 is what the counter thop says of the public code. It adds up modules of exactly the classes that "
            "it knows, and sees neither products of two activations nor weights that a function applies.",
            f"No sizes but {TABLE_5_SIZES.keypoints} keypoints and {TABLE_5_SIZES.tokens} tokens lead to Table 5: the "
            "pose head's share gives the keypoints, the text encoder's the tokens.",
            "The input projection runs on 8×8 cells here and on 16×16 in the public code; thop sees neither. That it "
            "does not see W_Q, W_K and W_V of CMAA (flf) either is inferred: with them flf would come to 24.458.",
        ),
    )


def _sum(found: Iterable[Difference]) -> int:
    return sum(difference.multiply_adds for difference in found)


def _giga(multiply_adds: int) -> str:
    return f"{multiply_adds / 1e9:.3f}"


def markdown(tables: Sequence[ReportTable]) -> str:
    """The tables as a Markdown document."""
    return "\n".join(["# What each system costs\n\nMade by `capeserve bench cost`.\n", *map(markdown_table, tables)])


def document(report: CostReport) -> dict[str, Any]:
    """The report as JSON: parameters and multiply-adds as whole numbers."""
    return {
        "sizes": asdict(report.sizes),
        "systems": {
            cost.system: {
                "components": {role: asdict(component) for role, component in cost.components.items()},
                "parameters": cost.parameters,
                "parameters_as_published": parameters_as_published(cost),
                "multiply_adds": {
                    "per_support": cost.per_support,
                    "per_query": cost.per_query,
                    "uncached": cost.uncached,
                },
                "table_5": asdict(TABLE_5[cost.system]) if cost.system in TABLE_5 else None,
                "differences_from_table_5": [
                    asdict(difference) for difference in report.differences.get(cost.system, [])
                ],
            }
            for cost in report.costs
        },
    }
