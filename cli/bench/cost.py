"""`capeserve bench cost`: parameters and multiply-adds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli.consoles import console


@click.command()
@click.option("--keypoints", type=click.IntRange(1, 100), default=17, show_default=True, help="Keypoints of a support.")
@click.option(
    "--tokens",
    type=click.IntRange(2, 77),
    default=6,
    show_default=True,
    help="Tokens of a keypoint's text, with start and end tokens.",
)
@click.option("--shots", type=click.IntRange(1, 16), default=1, show_default=True, help="Support images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the tables to this Markdown file."
)
def cost(keypoints: int, tokens: int, shots: int, as_json: bool, output: Path | None) -> None:
    """Count parameters and multiply-adds of every system, beside the paper's Table 5.

    Needs no weights: only shapes are propagated through the exported components.
    """
    try:
        from benchmarks.cost.measurement import Sizes
        from benchmarks.cost.report import document, markdown, measure_report, report_tables
        from benchmarks.harness.tables import terminal_table
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[export]'") from None

    report = measure_report(Sizes(keypoints, tokens, shots))
    tables = report_tables(report)
    if output is not None:
        output.write_text(markdown(tables), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(document(report), indent=2))
        return
    out = console()
    for table in tables:
        out.print(terminal_table(table))
        for note in table.notes:
            out.print(note)
        out.print()
    if output is not None:
        out.print(f"wrote {output}")
